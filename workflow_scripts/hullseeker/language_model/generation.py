"""Language models as the workflow uses them: loading, conversations, seeded sampling.

Needs: torch, transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from logging import Logger
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
from huggingface_hub import snapshot_download  # noqa: E402
from huggingface_hub.errors import HFValidationError  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase  # noqa: E402

from hullseeker.language_model.hub_models import WANTED, hub_cache  # noqa: E402
from hullseeker.language_model.model_check import check_embeddings, folder_of, mend_tokenizer, read_tokenizer  # noqa: E402
from hullseeker.runtime.devices import require_device  # noqa: E402
from hullseeker.runtime.provenance import seed_for, sha256_of_json  # noqa: E402


class Completion(NamedTuple):
    """What a model wrote, its tokens without the end token, and whether it ended it before the limit."""

    text: str
    n_tokens: int
    ended: bool


def load_language_model(
    path: str | Path, device: str = "cpu", dtype: str = "float32", attention: str = "sdpa", log: Logger | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer from a folder or a hub name; both end answers with the same tokens.

    Raises RuntimeError where a GPU is asked for and there is none, or flash-attn and it is not installed; OSError where
    there is no such model; ModelCheckError where its tokenizer or chat template cannot work (model_check.py).
    """
    require_device(device, "base_model.device")
    if attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise RuntimeError(
            "base_model.attention is 'flash_attention_2', and flash-attn is not installed here; install it into the "
            "environment that trains, or set base_model.attention: sdpa"
        )
    folder = folder_with(path)
    tokenizer = load_tokenizer(folder, log)
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=getattr(torch, dtype), use_safetensors=True, attn_implementation=attention
    )
    check_embeddings(len(tokenizer), model.get_input_embeddings().num_embeddings)
    own = tokenizer.eos_token_id
    others = sorted(end_tokens(model, tokenizer) - {own})
    model.generation_config.eos_token_id = [own, *others] if others else own
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.to(device), tokenizer


def load_tokenizer(path: str | Path, log: Logger | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer by folder or hub name, checked, and mended where that is safe; `log` is told what was mended.

    Raises ModelCheckError where the tokenizer or its chat template cannot work, OSError where there is none.
    """
    tokenizer = read_tokenizer(folder_with(path))
    for mended in mend_tokenizer(tokenizer):
        if log is not None:
            log.info("%s: %s", path, mended)
    return tokenizer


def folder_with(path: str | Path) -> Path:
    """Return the folder of a model, that of a hub name in the hub's cache, fetched where it is not whole.

    transformers reads some tokenizers otherwise by name than by folder, so that all is read by folder.
    """
    if (found := folder_of(path)) is not None:
        return found
    try:
        return Path(snapshot_download(str(path), allow_patterns=WANTED, cache_dir=hub_cache()))
    except HFValidationError as error:
        raise OSError(f"{path} is neither a folder here nor a hub name (owner/model)") from error


def as_conversation(prompt: str, completion: str | None = None) -> dict:
    """Return a row of TRL's conversational prompt-completion format."""
    row = {"prompt": [{"role": "user", "content": prompt}]}
    if completion is not None:
        row["completion"] = [{"role": "assistant", "content": completion}]
    return row


def render_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """Return the texts that a model is given for prompts, up to where its answer begins."""
    return [
        tokenizer.apply_chat_template(as_conversation(p)["prompt"], tokenize=False, add_generation_prompt=True)
        for p in prompts
    ]


def sha256_of_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> str:
    """Return the SHA-256 of distinct prompts as a model is given them, whatever their order."""
    return sha256_of_json(sorted(set(render_prompts(tokenizer, prompts))))


def longest_prompt_that_fits(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int, context: int | None, key: str
) -> int:
    """Return the tokens of the longest prompt; ValueError where it and an answer exceed `context` tokens.

    `key` names the config's key of max_new_tokens.
    """
    ids = tokenizer(render_prompts(tokenizer, prompts), add_special_tokens=False)["input_ids"]
    longest = max(len(one) for one in ids)
    if context is not None and longest + max_new_tokens > context:
        raise ValueError(
            f"the longest prompt has {longest} tokens, and with {key} of {max_new_tokens} that is more than the "
            f"{context} tokens that the model has room for; lower {key}, or shorten the prompt"
        )
    return longest


def context_tokens(path: str | Path) -> int | None:
    """Return the positions that a model has by its config.json, None where it names none."""
    config = json.loads((folder_with(path) / "config.json").read_text())
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
    """Return a completion per prompt, each drawn from a random stream of its own; one cut at the limit has not ended.

    Row i is drawn by inverse transform with uniform numbers from `row_seeds[i]` alone, so that a row's text
    does not depend on which rows share its batch.
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

    Temperature 0 takes the most likely token. `top_p` keeps the smallest set of tokens of that probability.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities, order = torch.softmax(logits.double() / temperature, -1).sort(dim=-1, descending=True, stable=True)
    cumulative = probabilities.cumsum(-1)
    if top_p < 1:
        probabilities = probabilities.masked_fill(cumulative - probabilities >= top_p, 0.0)
        cumulative = probabilities.cumsum(-1)
    wanted = uniforms[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, wanted, right=True).clamp(max=logits.shape[-1] - 1)
    return order.gather(-1, index).squeeze(-1)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that end an answer."""
    configured = model.generation_config.eos_token_id
    found = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    return {token for token in found if token is not None}


def row_seed(seed: int, structure_id: str) -> int:
    """Return the seed of one sample: from the config's seed and the row's id alone."""
    return seed_for(seed, "sample_structures", structure_id)
