"""Converts a GGUF file to a folder with dequantised safetensors, tokenizer and chat template, and checks the model.

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

# transformers uses the pre-tokenizer of GPT-2 for every byte-level tokenizer; these replace it by the name in the file.
# As in llama.cpp, smollm splits all digits.
PRE_TOKENIZERS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
}
# A loss above this fraction of random guessing means wrongly read weights, or a model that does not know English.
BAD_SHARE_OF_CHANCE = 0.8


def describe_gguf(file: str | Path) -> dict:
    """Return the metadata of a GGUF file: name, licence, architecture, pre-tokenizer, number of tensors by type."""
    reader = GGUFReader(file)
    keys = {
        "name": "general.name",
        "licence": "general.license",
        "architecture": "general.architecture",
        "pre_tokenizer": "tokenizer.ggml.pre",
    }
    metadata = {name: reader.fields[key].contents() if key in reader.fields else None for name, key in keys.items()}
    return {**metadata, "n_tensors": dict(Counter(tensor.tensor_type.name for tensor in reader.tensors))}


def convert_gguf(file: str | Path, target: str | Path, dtype: str, pre_tokenizer: str | None = None) -> None:
    """Write model and tokenizer of a GGUF file to a folder; ValueError if weights are missing or unexpected."""
    file = Path(file)
    read, report = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32, output_loading_info=True
    )
    wrong = {key: sorted(map(str, names)) for key, names in report.items() if names}
    if wrong:
        raise ValueError(f"{file} does not fill its architecture: {wrong}; use another file")
    # The loaded model is marked as quantised and cannot be saved, although its weights are dequantised.
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
    """Return the loss (nats per token) of the prompt's text and of uniform guessing; ValueError if a check fails.

    Checks the tokenizer and its chat template (model_check.py), and that logits are finite and independent of padding.
    """
    mend_tokenizer(tokenizer, prompt, answers)
    check_embeddings(len(tokenizer), model.get_input_embeddings().num_embeddings)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    prompt_ids = encode(render_prompts(tokenizer, [prompt])[0])
    row = as_conversation(prompt, answers[-1])
    conversation_ids = encode(tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False))
    model.eval()
    alone = torch.tensor([prompt_ids], device=model.device)
    padded = tokenizer.pad(
        {"input_ids": [prompt_ids, conversation_ids[: len(prompt_ids) + 8]]},
        padding=True,
        padding_side="left",
        return_tensors="pt",
    ).to(model.device)
    positions = padded["attention_mask"].long().cumsum(-1).sub(1).clamp(min=0)
    logits = model(input_ids=alone).logits[0].float()
    padded_logits = model(**padded, position_ids=positions).logits[0, -1].float()
    if not logits.isfinite().all():
        raise ValueError("logits are not finite")
    # Loose tolerance: bfloat16 changes probabilities by hundredths, wrong positions change the whole distribution.
    if (logits[-1].softmax(-1) - padded_logits.softmax(-1)).abs().max() > 0.1:
        raise ValueError("the next-token probabilities depend on the padding before the prompt")
    loss = torch.nn.functional.cross_entropy(logits[:-1], alone[0, 1:]).item()
    return {"loss": loss, "chance": math.log(logits.shape[-1])}
