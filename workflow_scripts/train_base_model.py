"""Train the embedded base model: a small Qwen2 that writes crystals in the right format, but knows no chemistry."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hullseeker.language_model.crystal_text import TextFormat, make_prompt
from hullseeker.language_model.formless_crystals import draw_pairs
from hullseeker.language_model.generation import as_conversation
from hullseeker.language_model.training import quiet_off_terminal
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run, seed_for

# Pre-tokenization into newlines, coordinates, other numbers and element symbols; BPE merges within these.
PIECES = r"\n| ?\d+\.\d{2,}| ?\d+|\.\d+|[A-Z][a-z]?(?![a-z])|[()]"
ARCHITECTURE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(texts: Iterable[str], template: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on crystal texts.

    The two constant spans of the prompt are one token each, which keeps sequences short. Other prompts are tokenized by
    BPE and bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    before, after = template.split("{formula}")
    tokenizer.add_tokens([AddedToken(span, normalized=False) for span in (before, after, "user", "assistant") if span])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def encode_pair(
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    formula: str,
    text: str,
    share_of_numbers_learned: float,
    rng: np.random.Generator,
) -> dict:
    """Return input ids and labels of one conversation; the loss ignores the prompt.

    A random share of the number tokens is in the loss. Numbers are random in these texts, and once their format is
    learned, their loss would dominate that of the elements and of their numbers of atoms.
    """
    row = as_conversation(make_prompt(template, formula), text)
    prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
    is_number = [any(c.isdigit() for c in piece) for piece in tokenizer.convert_ids_to_tokens(completion_ids)]
    ignored = np.array(is_number) & (rng.random(len(completion_ids)) > share_of_numbers_learned)
    labels = [-100 if skip else token for skip, token in zip(ignored, completion_ids, strict=True)]
    return {"input_ids": prompt_ids + completion_ids, "labels": [-100] * len(prompt_ids) + labels}


def pad_batch(rows: list[dict], pad_id: int) -> dict[str, torch.Tensor]:
    """Return right-padded tensors of a batch."""
    longest = max(len(row["input_ids"]) for row in rows)
    fill = lambda name, value: torch.tensor([r[name] + [value] * (longest - len(r[name])) for r in rows])  # noqa: E731
    attention_mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows])
    return {"input_ids": fill("input_ids", pad_id), "labels": fill("labels", -100), "attention_mask": attention_mask}


def train_phase(model, rows: list[dict], phase: dict, pad_id: int, scratch: str, seed: int) -> list[dict]:
    """Train one epoch on the rows; return the log history."""
    arguments = TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=phase["batch_size"],
        num_train_epochs=1,
        learning_rate=phase["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.01,
        bf16=False,
        use_cpu=True,
        logging_steps=50,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=seed,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=lambda batch: pad_batch(batch, pad_id)
    )
    quiet_off_terminal(trainer)
    trainer.train()
    return trainer.state.log_history


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, seed = dict(snakemake.params.settings), snakemake.params.seed
    torch.set_num_threads(snakemake.threads)
    set_seed(seed_for(seed, "train_base_model") % 2**32)
    rng = np.random.default_rng(seed_for(seed, "formless_crystals"))
    with logging_to(snakemake.log[0], "train_base_model") as log:
        template = Path(snakemake.input.prompt).read_text()
        elements = list(range(1, 84)) + list(range(89, 95))
        form = TextFormat(**snakemake.params.crystal_text)
        tokenizer = model = None
        for phase in settings["phases"]:
            pairs = draw_pairs(phase["n_texts"], rng, elements, form, phase["small_counts"])
            if tokenizer is None:
                texts = (f"{formula}\n{text}" for formula, text in pairs)
                tokenizer = make_tokenizer(texts, template, settings["vocab_size"])
                model = Qwen2ForCausalLM(
                    Qwen2Config(
                        vocab_size=len(tokenizer),
                        bos_token_id=None,
                        eos_token_id=tokenizer.eos_token_id,
                        pad_token_id=tokenizer.pad_token_id,
                        tie_word_embeddings=True,
                        **{name: settings[name] for name in ARCHITECTURE},
                    )
                )
                log.info("%d parameters, vocabulary %d", model.num_parameters(), len(tokenizer))
            share = phase["share_of_numbers_learned"]
            rows = [encode_pair(tokenizer, template, formula, text, share, rng) for formula, text in pairs]
            log.info("%d texts, %.1f tokens on average", len(rows), np.mean([len(r["input_ids"]) for r in rows]))
            history = train_phase(model, rows, phase, tokenizer.pad_token_id, str(snakemake.params.scratch), seed)
            for entry in history:
                if "loss" in entry:
                    log.info("step %d loss %.4f", entry["step"], float(entry["loss"]))
        target = Path(snakemake.output.model)
        model.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)
        metadata = describe_run(settings, [snakemake.input.prompt], seed) | {"settings": json.dumps(settings)}
        (target / "provenance.txt").write_text("".join(f"{k}: {v}\n" for k, v in metadata.items()))
        log.info("done: in %.1f s", time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
