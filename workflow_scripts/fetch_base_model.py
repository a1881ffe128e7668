"""Download the base model into the hub's cache, where jobs without a network find it."""

import json
import os
from pathlib import Path

from huggingface_hub import snapshot_download

from hullseeker.hub_models import hub_cache, missing_in_model
from hullseeker.logs import logging_to
from hullseeker.provenance import sha256_of_file
from hullseeker.tables import replacing

# Safetensors alone: no pickles, and each weight once.
WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def fetch(model: str) -> dict:
    """Return model, revision and the SHA-256 of each file; OSError where the hub or the model lacks something."""
    snapshot = Path(
        snapshot_download(model, allow_patterns=WANTED, cache_dir=hub_cache(), token=os.environ.get("HF_TOKEN"))
    )
    if lacks := missing_in_model(snapshot):
        raise OSError(f"{model} lacks {', '.join(lacks)} at the hub; a model needs safetensors, config and tokenizer")
    files = {str(p.relative_to(snapshot)): sha256_of_file(p) for p in sorted(snapshot.rglob("*")) if p.is_file()}
    return {"model": model, "revision": snapshot.name, "cache": str(hub_cache()), "sha256": files}


def main(snakemake) -> None:
    with logging_to(snakemake.log[0], "fetch_base_model") as log:
        fetched = fetch(snakemake.params.model)
        with replacing(snakemake.output[0]) as beside:
            Path(beside).write_text(json.dumps(fetched, indent=1))
        log.info("done: %s at revision %s, %d files", fetched["model"], fetched["revision"], len(fetched["sha256"]))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
