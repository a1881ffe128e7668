"""Download the base model into the Hugging Face cache, for jobs that run without a network."""

import json
from pathlib import Path

from huggingface_hub import snapshot_download

from hullseeker.language_model.hub_access import refusal_of_hub
from hullseeker.language_model.hub_models import DOWNLOAD_PATTERNS, hub_cache, missing_in_model
from hullseeker.language_model.model_check import unusable_model
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.credentials import TOKEN_VARIABLES, hub_login
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import sha256_of_file


def fetch(model: str) -> dict:
    """Download a model of the hub; return its name, revision, cache folder and the SHA-256 of each file.

    Raises OSError if the hub refuses access or the model lacks files, ValueError if this workflow cannot use the model,
    CredentialError if the token cannot be used.
    """
    login = hub_login()
    # A token stored in a file is left to huggingface_hub, which renews expired ones.
    token = login[1] if login and login[0] in TOKEN_VARIABLES else None
    try:
        snapshot = Path(snapshot_download(model, allow_patterns=DOWNLOAD_PATTERNS, cache_dir=hub_cache(), token=token))
    except OSError:
        if refusal := refusal_of_hub(model):
            raise OSError(f"{model} cannot be fetched: {refusal}") from None
        raise
    if missing := missing_in_model(snapshot):
        raise OSError(f"{model} lacks {', '.join(missing)} at the hub; a model needs safetensors, config and tokenizer")
    if problems := unusable_model(model):
        raise ValueError("; ".join(problems))
    files = {str(p.relative_to(snapshot)): sha256_of_file(p) for p in sorted(snapshot.rglob("*")) if p.is_file()}
    return {"model": model, "revision": snapshot.name, "cache": str(hub_cache()), "sha256": files}


def main(snakemake) -> None:
    with logging_to(snakemake.log[0], "fetch_base_model") as log:
        fetched = fetch(snakemake.params.model)
        with replacing(snakemake.output[0]) as temporary_path:
            Path(temporary_path).write_text(json.dumps(fetched, indent=1))
        log.info("done: %s at revision %s, %d files", fetched["model"], fetched["revision"], len(fetched["sha256"]))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
