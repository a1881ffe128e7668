"""Language models as the workflow uses them: loading, conversations, seeded sampling.

Needs: torch, transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hullseeker.potentials import require_device  # noqa: E402
from hullseeker.provenance import seed_for  # noqa: E402

GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_language_model(
    path: str | Path, device: str = "cpu", dtype: str = "float32", attention: str = "sdpa"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer from a folder or a hub name.

    Raises RuntimeError where a GPU is asked for and there is none, or flash-attn and it is not installed; OSError where
    there is no such model.
    """
    require_device(device, "base_model.device")
    if attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise RuntimeError(
            "base_model.attention is 'flash_attention_2', and flash-attn is not installed here; install it into the "
            "environment that trains, or set base_model.attention: sdpa"
        )
    model = AutoModelForCausalLM.from_pretrained(
        str(path), dtype=getattr(torch, dtype), use_safetensors=True, attn_implementation=attention
    )
    return model.to(device), load_tokenizer(path)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer; one saved under the generic class keeps its own pre-tokenizer.

    AutoTokenizer goes by the model's architecture and would put that architecture's pre-tokenizer in its place.
    """
    saved = Path(path) / "tokenizer_config.json"
    generic = saved.is_file() and json.loads(saved.read_text()).get("tokenizer_class") in GENERIC_TOKENIZERS
    loader = PreTrainedTokenizerFast if generic else AutoTokenizer
    return loader.from_pretrained(str(path), padding_side="left")


def as_conversation(prompt: str, completion: str | None = None) -> dict:
    """Return a row of TRL's conversational prompt-completion format."""
    row = {"prompt": [{"role": "user", "content": prompt}]}
    if completion is not None:
        row["completion"] = [{"role": "assistant", "content": completion}]
    return row


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
) -> list[tuple[str, int]]:
    """Return (text, number of tokens) per prompt, each drawn from a random stream of its own.

    Row i is drawn by inverse transform with uniform numbers from `row_seeds[i]` alone, so that a row's text
    does not depend on which rows share its batch.
    """
    texts = [
        tokenizer.apply_chat_template(as_conversation(p)["prompt"], tokenize=False, add_generation_prompt=True)
        for p in prompts
    ]
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
        results.append((tokenizer.decode(row[:n_tokens], skip_special_tokens=True), n_tokens))
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
