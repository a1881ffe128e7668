"""Draw one shard of a system's samples: every draw is a row, parsed or not."""

import time
from pathlib import Path

import torch

from hullseeker.crystal_text import TextFormat, parse_crystal
from hullseeker.language_model import load_language_model, row_seed, sample_completions
from hullseeker.logs import close_with_counts, logging_to, progress
from hullseeker.provenance import describe_run
from hullseeker.sharding import blocks_of_shard
from hullseeker.structures import reduced_formula
from hullseeker.tables import read_table, write_table
from hullseeker.training import prompts_of


def plan_draws(system: str, prompts: list[tuple[str, str]], n_samples: int) -> list[dict]:
    """Return one planned row per draw: prompts in order, cycled through until there are n_samples."""
    return [
        {
            "structure_id": f"{system}-{i:06d}",
            "system": system,
            "prompt_formula": prompts[i % len(prompts)][0],
            "prompt": prompts[i % len(prompts)][1],
            "draw": i // len(prompts),
        }
        for i in range(n_samples)
    ]


def finished_row(planned: dict, text: str, n_tokens: int, form: TextFormat) -> dict:
    """Return the samples row of one draw."""
    parsed = parse_crystal(text, form)
    row = {name: planned[name] for name in ("structure_id", "system", "prompt_formula", "draw")}
    row |= {"text": text, "n_tokens": n_tokens}
    if parsed.columns is None:
        return {**row, "status": "parse_failed", "error": parsed.error}
    return {**row, **parsed.columns, "status": "ok", "formula": reduced_formula(parsed.columns["atomic_numbers"])}


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, base, prompt = dict(snakemake.params.settings), snakemake.params.base_model, snakemake.params.prompt
    form, seed, system = TextFormat(**snakemake.params.crystal_text), snakemake.params.seed, snakemake.wildcards.system
    with logging_to(snakemake.log[0], "sample_structures") as log:
        rows = [r for r in read_table(snakemake.input.materials, "materials").to_pylist() if r["split"] == "test"]
        prompts = prompts_of(rows, Path(snakemake.input.prompt).read_text(), prompt["formula"])
        path = snakemake.input.model[0] if snakemake.input.get("model") else base["path"]
        model, tokenizer = load_language_model(path, base["device"], base["dtype"], base["attention"])
        planned = plan_draws(system, prompts, settings["n_samples"])
        blocks = blocks_of_shard(planned, settings["batch_size"], int(snakemake.wildcards.shard), settings["n_shards"])
        drawn = []
        for block in progress(blocks, f"sampling {system}"):
            completions = sample_completions(
                model,
                tokenizer,
                [row["prompt"] for row in block],
                [row_seed(seed, row["structure_id"]) for row in block],
                temperature=settings["temperature"],
                top_p=settings["top_p"],
                max_new_tokens=settings["max_new_tokens"],
            )
            drawn += [finished_row(row, *completion, form) for row, completion in zip(block, completions, strict=True)]
        metadata = describe_run(settings, [snakemake.input.materials], seed)
        write_table(snakemake.output.samples, drawn, "samples", metadata)
        close_with_counts(log, (row["status"] for row in drawn), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
