"""Language models on disk: the hub's cache, and whether a model in it is complete.

Needs: the standard library.

huggingface_hub is not used: it fixes the cache's folder when it is imported, and need not be installed beside
Snakemake, where these checks run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_SAFETENSORS_LENGTH_BYTES = 8
# Files to download of a hub model. Only safetensors: no pickles, and no duplicates of the weights.
DOWNLOAD_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_YES = ("1", "ON", "YES", "TRUE")


def offline() -> bool:
    """Return whether the environment disables requests to the Hugging Face hub."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _YES


def hub_cache() -> Path:
    """Return the folder of the hub's cache."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def folder_in_cache(model: str) -> str:
    """Return the name of a model's folder in the hub's cache."""
    return f"models--{model.replace('/', '--')}"


def snapshot_of(model: str) -> Path | None:
    """Return the folder of a hub model's main revision in the cache, possibly incomplete; None if there is none."""
    repository = hub_cache() / folder_in_cache(model)
    try:
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return snapshot if snapshot.is_dir() else None


def missing_in_model(folder: Path) -> list[str]:
    """Return what is missing in a model folder: config, tokenizer, or complete safetensors files."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    index = folder / "model.safetensors.index.json"
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else []
    except (ValueError, KeyError, AttributeError):
        return [*missing, f"a readable {index.name}"]
    for name in names or ["model.safetensors"]:
        if not (folder / name).is_file():
            missing.append(name)
        elif not is_complete(folder / name):
            missing.append(f"the rest of {name}, which is truncated")
    return missing


def is_complete(weights: Path) -> bool:
    """Return whether a safetensors file has the length given by its header."""
    size = weights.stat().st_size
    with open(weights, "rb") as handle:
        length = int.from_bytes(handle.read(_SAFETENSORS_LENGTH_BYTES), "little")
        if size < _SAFETENSORS_LENGTH_BYTES + length:
            return False
        try:
            header = json.loads(handle.read(length))
        except ValueError:
            return False
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return size == _SAFETENSORS_LENGTH_BYTES + length + max(ends, default=0)
