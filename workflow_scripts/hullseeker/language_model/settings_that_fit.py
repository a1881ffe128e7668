"""Writes the table of docs/training_at_scale.md: settings of Qwen2.5-7B-Instruct with an estimate that fits.

Needs: torch, transformers. Run by `make training-table`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from hullseeker.language_model.training_estimate import (
    DEVICES,
    Plan,
    Shape,
    memory_bytes,
    peak_bytes,
    shape_of,
    step_time_s,
)

BEGIN, END = "<!-- table: settings that fit -->", "<!-- end of table -->"
# Upper bound for the paper's prompt.
PROMPT_TOKENS = 200
MACHINES = [("1 x 80 GB", "H100", 1), ("1 x 141 GB", "H200", 1), ("4 x 80 GB", "H100", 4)]


def qwen_7b() -> Shape:
    """Return the shape of Qwen2.5-7B-Instruct with adapters of rank 16, by its config.json on the hub."""
    from transformers import Qwen2Config

    config = Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
        tie_word_embeddings=False,
    )
    return shape_of(config, lora_rank=16)


def plans(n_processes: int) -> list[tuple[str, Plan]]:
    """Return (stage, plan) to test on a machine, with the batch sizes and lengths of config.yaml."""
    sft = Plan("lora", 2, True, True, 64, 1, PROMPT_TOKENS, 1024 - PROMPT_TOKENS, n_processes)
    grpo = replace(sft, batch_size=128, answer_tokens=512, vllm_memory_share=0.3, vllm_sleep=True)
    stage_plans = []
    for stage, plan in (("SFT", sft), ("GRPO", grpo)):
        for method in ("lora", "full"):
            sharing = "FSDP" if n_processes > 1 and method == "full" else "MULTI_GPU"
            for engine in [None] if stage == "SFT" else ["transformers", "vllm_colocate"]:
                stage_plans.append((stage, replace(plan, method=method, sharing=sharing, engine=engine)))
    return stage_plans


def rows() -> list[list[str]]:
    """Return the rows of the table: the largest device batch that fits, by machine, stage, method and engine."""
    shape, table = qwen_7b(), []
    for machine, name, n_processes in MACHINES:
        device = DEVICES[name]
        for stage, plan in plans(n_processes):
            sizes = [2**k for k in range(6, -1, -1) if plan.batch_size % (2**k * n_processes) == 0]
            fits = [
                sized
                for size in sizes
                if peak_bytes(memory_bytes(shape, sized := replace(plan, device_batch_size=size), device.memory_bytes))
                <= device.memory_bytes
            ]
            share = "" if n_processes == 1 else ("fsdp" if plan.sharing == "FSDP" else "ddp")
            cells = [machine, stage, plan.method, plan.engine or "", share]
            if not fits:
                table.append([*cells, "none", "", ""])
                continue
            peak = peak_bytes(memory_bytes(shape, fits[0], device.memory_bytes)) / 1e9
            seconds = sum(step_time_s(shape, fits[0], device).values())
            table.append([*cells, str(fits[0].device_batch_size), f"{peak:.0f}", f"{seconds:.0f}"])
    return table


def markdown() -> str:
    """Return the table as Markdown."""
    head = ["machine", "stage", "method", "rollouts.engine", "accelerate", "device_batch_size", "GB", "s per step"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows()])


def main(path: str) -> None:
    """Replace the table between its markers in a Markdown file."""
    text = Path(path).read_text()
    before, rest = text.split(BEGIN)
    Path(path).write_text(f"{before}{BEGIN}\n{markdown()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
