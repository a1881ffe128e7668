"""Language models on the disk: where transformers keeps what it downloads, and whether a model is there as a whole.

Needs: the standard library.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_SAFETENSORS_LENGTH_BYTES = 8
# Of a model at the hub. Safetensors alone: no pickles, and each weight once.
WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_YES = ("1", "ON", "YES", "TRUE")


def offline() -> bool:
    """Whether the environment forbids to ask the Hugging Face hub."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _YES


def hub_cache() -> Path:
    """Return the folder in which transformers keeps what it downloads."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def folder_in_cache(model: str) -> str:
    """Return the name that a cache of the hub gives to a model's folder."""
    return f"models--{model.replace('/', '--')}"


def snapshot_of(model: str) -> Path | None:
    """Return the folder of a hub model's main revision in the cache, complete or not; None where there is none."""
    repository = hub_cache() / folder_in_cache(model)
    try:
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return snapshot if snapshot.is_dir() else None


def missing_in_model(folder: Path) -> list[str]:
    """Return what a folder lacks to be a model: config, tokenizer, and weights in whole safetensors files."""
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
        elif not is_whole(folder / name):
            missing.append(f"the rest of {name}, which was cut short")
    return missing


def is_whole(weights: Path) -> bool:
    """Whether a safetensors file is as long as its own header says."""
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
