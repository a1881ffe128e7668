"""Language models: loading, conversations, seeded sampling.

Needs: torch, transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from logging import Logger
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
from huggingface_hub import snapshot_download  # noqa: E402
from huggingface_hub.errors import HFValidationError  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase  # noqa: E402

from hullseeker.language_model.hub_models import DOWNLOAD_PATTERNS, hub_cache  # noqa: E402
from hullseeker.language_model.model_check import check_embeddings, existing_folder, mend_tokenizer, read_tokenizer  # noqa: E402
from hullseeker.runtime.devices import require_device  # noqa: E402
from hullseeker.runtime.provenance import seed_for, sha256_of_json  # noqa: E402


class Completion(NamedTuple):
    """Generated text, its number of tokens without the end token, and whether an end token came before the limit."""

    text: str
    n_tokens: int
    ended: bool


def load_language_model(
    path: str | Path, device: str = "cpu", dtype: str = "float32", attention: str = "sdpa", log: Logger | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer from a folder or hub name; generation stops at the end tokens of both.

    Raises RuntimeError if the GPU or flash-attn is requested but not available, OSError if there is no such model, and
    ModelCheckError if the tokenizer or chat template is unusable (model_check.py).
    """
    require_device(device, "base_model.device")
    if attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise RuntimeError(
            "base_model.attention is 'flash_attention_2', and flash-attn is not installed here; install it into the "
            "environment that trains, or set base_model.attention: sdpa"
        )
    folder = local_folder(path)
    tokenizer = load_tokenizer(folder, log)
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=getattr(torch, dtype), use_safetensors=True, attn_implementation=attention
    )
    check_embeddings(len(tokenizer), model.get_input_embeddings().num_embeddings)
    end_token = tokenizer.eos_token_id
    others = sorted(end_tokens(model, tokenizer) - {end_token})
    model.generation_config.eos_token_id = [end_token, *others] if others else end_token
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.to(device), tokenizer


def load_to_sample(start: str | Path, base: Mapping, is_trained: bool, log: Logger | None = None):
    """Return model and tokenizer for sampling; a trained model is loaded in the precision in which it was saved."""
    if not is_trained:
        return load_language_model(start, base["device"], base["dtype"], base["attention"], log)
    saved = AutoConfig.from_pretrained(str(start)).dtype or getattr(torch, base["dtype"])
    # flash-attn has no kernel for float32.
    attention = "sdpa" if saved == torch.float32 and base["attention"] == "flash_attention_2" else base["attention"]
    return load_language_model(start, base["device"], str(saved).removeprefix("torch."), attention, log)


def load_tokenizer(path: str | Path, log: Logger | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or hub name, check it and apply safe repairs, which are written to `log`.

    Raises ModelCheckError if the tokenizer or its chat template is unusable, OSError if there is none.
    """
    tokenizer = read_tokenizer(local_folder(path))
    for repair in mend_tokenizer(tokenizer):
        if log is not None:
            log.info("%s: %s", path, repair)
    return tokenizer


def local_folder(path: str | Path) -> Path:
    """Return the folder of a model; a hub model is downloaded to the hub's cache if it is incomplete there.

    Models are always loaded from folders, because transformers loads some tokenizers differently by name.
    """
    if (folder := existing_folder(path)) is not None:
        return folder
    try:
        return Path(snapshot_download(str(path), allow_patterns=DOWNLOAD_PATTERNS, cache_dir=hub_cache()))
    except HFValidationError as error:
        raise OSError(f"{path} is neither a folder here nor a hub name (owner/model)") from error


def as_conversation(prompt: str, completion: str | None = None) -> dict:
    """Return a row in TRL's conversational prompt-completion format."""
    row = {"prompt": [{"role": "user", "content": prompt}]}
    if completion is not None:
        row["completion"] = [{"role": "assistant", "content": completion}]
    return row


def render_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """Return the model inputs of prompts: the chat template applied up to the start of the answer."""
    return [
        tokenizer.apply_chat_template(as_conversation(p)["prompt"], tokenize=False, add_generation_prompt=True)
        for p in prompts
    ]


def sha256_of_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> str:
    """Return the SHA-256 of the distinct rendered prompts, independent of their order."""
    return sha256_of_json(sorted(set(render_prompts(tokenizer, prompts))))


def longest_prompt_that_fits(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int, context: int | None, key: str
) -> int:
    """Return the number of tokens of the longest prompt; ValueError if prompt and answer exceed `context` tokens.

    `key` is the config key of max_new_tokens, for the message.
    """
    ids = tokenizer(render_prompts(tokenizer, prompts), add_special_tokens=False)["input_ids"]
    longest = max(len(prompt_ids) for prompt_ids in ids)
    if context is not None and longest + max_new_tokens > context:
        raise ValueError(
            f"the longest prompt has {longest} tokens, and with {key} of {max_new_tokens} that is more than the "
            f"{context} tokens of the model's context; lower {key}, or shorten the prompt"
        )
    return longest


def context_tokens(path: str | Path) -> int | None:
    """Return max_position_embeddings of a model's config.json, None if it is not set."""
    config = json.loads((local_folder(path) / "config.json").read_text())
    return config.get("text_config", config).get("max_position_embeddings")


@torch.inference_mode()
def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    row_seeds: Sequence[int],
    *,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
) -> list[Completion]:
    """Return one sampled completion per prompt; completions cut at the limit have `ended` False.

    Row i is sampled by inverse transform with uniform random numbers from `row_seeds[i]`, so that its text does not
    depend on the other rows of the batch.
    """
    texts = render_prompts(tokenizer, prompts)
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    uniforms = torch.stack(
        [
            torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            for seed in row_seeds
        ]
    )
    model.eval()
    attention, ids, cache = inputs["attention_mask"], inputs["input_ids"], None
    ends = torch.tensor(sorted(end_tokens(model, tokenizer)), device=model.device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
    drawn: list[torch.Tensor] = []
    positions = attention.long().cumsum(-1).sub(1).clamp(min=0)
    for step in range(max_new_tokens):
        output = model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        token = draw_tokens(output.logits[:, -1], uniforms[:, step].to(model.device), temperature, top_p)
        token = torch.where(alive, token, ends[0])
        drawn.append(token)
        alive = alive & ~torch.isin(token, ends)
        if not alive.any():
            break
        ids, positions = token[:, None], positions[:, -1:] + 1
        attention = torch.cat([attention, attention.new_ones(len(prompts), 1)], dim=1)
    tokens = torch.stack(drawn, dim=1).cpu()
    results = []
    for row in tokens:
        ended = torch.isin(row, ends.cpu()).nonzero()
        n_tokens = int(ended[0]) if len(ended) else len(row)
        text = tokenizer.decode(row[:n_tokens], skip_special_tokens=True)
        results.append(Completion(text, n_tokens, len(ended) > 0))
    return results


def draw_tokens(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Return one token per row by inverse transform; shapes (batch, vocabulary), (batch,) -> (batch,).

    Temperature 0 takes the most likely token. `top_p` keeps the smallest set of tokens with at least that probability.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities, order = torch.softmax(logits.double() / temperature, -1).sort(dim=-1, descending=True, stable=True)
    cumulative = probabilities.cumsum(-1)
    if top_p < 1:
        probabilities = probabilities.masked_fill(cumulative - probabilities >= top_p, 0.0)
        cumulative = probabilities.cumsum(-1)
    targets = uniforms[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, targets, right=True).clamp(max=logits.shape[-1] - 1)
    return order.gather(-1, index).squeeze(-1)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the token ids that end an answer."""
    configured = model.generation_config.eos_token_id
    token_ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    return {token for token in token_ids if token is not None}


def row_seed(seed: int, structure_id: str) -> int:
    """Return the seed of one sample, derived from the config's seed and the row's structure_id."""
    return seed_for(seed, "sample_structures", structure_id)
