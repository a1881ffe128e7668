"""Draw one shard of a language model's samples; every draw is a row, with or without a crystal."""

import time
from pathlib import Path

import torch

from hullseeker.data.selection import rows_in_use
from hullseeker.language_model.crystal_text import TextFormat, parse_crystal
from hullseeker.language_model.generation import (
    Completion,
    context_tokens,
    load_to_sample,
    longest_prompt_that_fits,
    row_seed,
    sample_completions,
    sha256_of_prompts,
)
from hullseeker.language_model.prompts import prompts_of
from hullseeker.runtime.logs import close_with_counts, logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.sharding import blocks_of_shard
from hullseeker.tables.structures import reduced_formula


def plan_draws(system: str, prompts: list[tuple[str, str]], n_samples: int) -> list[dict]:
    """Return one planned row per draw, with prompts in order, repeated until there are n_samples rows."""
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


def finished_row(planned: dict, completion: Completion, form: TextFormat, max_new_tokens: int) -> dict:
    """Return the samples row of one draw; a completion cut at the token limit is not parsed."""
    row = {name: planned[name] for name in ("structure_id", "system", "prompt_formula", "draw")}
    row |= {"text": completion.text, "n_tokens": completion.n_tokens}
    if not completion.ended:
        error = f"the answer did not end within sampling.max_new_tokens ({max_new_tokens})"
        return {**row, "status": "cut", "error": error}
    parsed = parse_crystal(completion.text, form)
    if parsed.columns is None:
        return {**row, "status": "parse_failed", "error": parsed.error}
    return {**row, **parsed.columns, "status": "ok", "formula": reduced_formula(parsed.columns["atomic_numbers"])}


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, base, prompt = dict(snakemake.params.settings), snakemake.params.base_model, snakemake.params.prompt
    form, seed, system = TextFormat(**snakemake.params.crystal_text), snakemake.params.seed, snakemake.wildcards.system
    with logging_to(snakemake.log[0], "sample_structures") as log:
        rows = rows_in_use(read_table(snakemake.input.materials, "materials").to_pylist(), "test")
        prompts = prompts_of(rows, Path(snakemake.input.prompt).read_text(), prompt["formula"])
        path = snakemake.input.model[0] if snakemake.input.get("model") else base["path"]
        model, tokenizer = load_to_sample(path, base, bool(snakemake.input.get("model")), log)
        prompt_texts, limit = [text for _, text in prompts], settings["max_new_tokens"]
        longest_prompt_that_fits(tokenizer, prompt_texts, limit, context_tokens(path), "sampling.max_new_tokens")
        planned = plan_draws(system, prompts, settings["n_samples"])
        shard, n_shards = int(snakemake.wildcards.shard), snakemake.params.n_shards
        blocks = blocks_of_shard(planned, settings["batch_size"], shard, n_shards)
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
            drawn += [
                finished_row(row, completion, form, settings["max_new_tokens"])
                for row, completion in zip(block, completions, strict=True)
            ]
        metadata = describe_run(settings, [snakemake.input.materials], seed)
        metadata["rendered_prompts_sha256"] = sha256_of_prompts(tokenizer, prompt_texts)
        write_table(snakemake.output.samples, drawn, "samples", metadata)
        close_with_counts(log, (row["status"] for row in drawn), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
