"""A GGUF file as a folder that every rule can load: dequantised safetensors, tokenizer, chat template; and its checks.

Needs: torch, transformers, gguf.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hullseeker.language_model.generation import as_conversation, render_prompts
from hullseeker.language_model.model_check import check_embeddings, mend_tokenizer

# transformers gives every byte-level tokenizer that of GPT-2; a GGUF file says by name where another is meant.
# As in llama.cpp: every digit is a piece of its own.
PRE_TOKENIZERS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
}
# A model that predicts English as badly as this share of guessing was not read rightly, or knows none.
BAD_SHARE_OF_CHANCE = 0.8


def describe_gguf(file: str | Path) -> dict:
    """Return what a GGUF file says of itself: name, licence, architecture, pre-tokenizer, tensors by type."""
    reader = GGUFReader(file)
    keys = {
        "name": "general.name",
        "licence": "general.license",
        "architecture": "general.architecture",
        "pre_tokenizer": "tokenizer.ggml.pre",
    }
    about = {ours: reader.fields[key].contents() if key in reader.fields else None for ours, key in keys.items()}
    return {**about, "n_tensors": dict(Counter(tensor.tensor_type.name for tensor in reader.tensors))}


def convert_gguf(file: str | Path, target: str | Path, dtype: str, pre_tokenizer: str | None = None) -> None:
    """Write model and tokenizer of a GGUF file to a folder; ValueError where weights are missing or left over."""
    file = Path(file)
    read, report = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32, output_loading_info=True
    )
    wrong = {key: sorted(map(str, names)) for key, names in report.items() if names}
    if wrong:
        raise ValueError(f"{file} does not fill its architecture: {wrong}; use another file")
    # What was read counts as quantised and refuses to be saved; its weights are plain by now.
    config, weights = read.config, read.state_dict()
    del config.quantization_config
    config.dtype = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.load_state_dict(weights)
    model.generation_config = read.generation_config
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    if pre_tokenizer in PRE_TOKENIZERS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(PRE_TOKENIZERS[pre_tokenizer])
    tokenizer.save_pretrained(target)


@torch.inference_mode()
def check_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, answers: Sequence[str]
) -> dict[str, float]:
    """Return the loss (nats a token) of the prompt's text, and of guessing; ValueError where something is not right.

    What is looked at: the tokenizer and its chat template (model_check.py), logits that are finite and do not depend on
    the padding.
    """
    mend_tokenizer(tokenizer, prompt, answers)
    check_embeddings(len(tokenizer), model.get_input_embeddings().num_embeddings)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    start = encode(render_prompts(tokenizer, [prompt])[0])
    row = as_conversation(prompt, answers[-1])
    whole = encode(tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False))
    model.eval()
    alone = torch.tensor([start], device=model.device)
    padded = tokenizer.pad(
        {"input_ids": [start, whole[: len(start) + 8]]}, padding=True, padding_side="left", return_tensors="pt"
    ).to(model.device)
    positions = padded["attention_mask"].long().cumsum(-1).sub(1).clamp(min=0)
    expected = model(input_ids=alone).logits[0].float()
    found = model(**padded, position_ids=positions).logits[0, -1].float()
    if not expected.isfinite().all():
        raise ValueError("logits are not finite")
    # Probabilities, and generously: in bfloat16 they move by hundredths; a wrong position makes another distribution.
    if (expected[-1].softmax(-1) - found.softmax(-1)).abs().max() > 0.1:
        raise ValueError("what comes next depends on the padding before the prompt")
    loss = torch.nn.functional.cross_entropy(expected[:-1], alone[0, 1:]).item()
    return {"loss": loss, "chance": math.log(expected.shape[-1])}
