"""Where a table came from: hashes, versions and seeds.

Needs: the standard library and git on the path (optional).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("snakemake", "torch", "transformers", "trl", "peft", "pymatgen", "chgnet", "sevenn", "matminer", "smact", "pyarrow")


def sha256_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_of_json(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def seed_for(seed: int, *parts: object) -> int:
    """Return a 63-bit seed from the config's seed and what it is for, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in (seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@cache
def _git_state() -> dict[str, str]:
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(bool(git("status", "--porcelain", "-uno"))).lower()}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": "unknown", "git_dirty": "unknown"}


@cache
def _versions() -> str:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return json.dumps(found, sort_keys=True)


def describe_run(settings: Mapping, inputs: Iterable[str | Path] = (), seed: int | None = None) -> dict[str, str]:
    """Return the metadata that every table carries: git state, package versions, hashes of settings and inputs."""
    return {
        **_git_state(),
        "package_versions": _versions(),
        "settings_sha256": sha256_of_json(dict(settings)),
        "inputs_sha256": json.dumps({Path(p).name: sha256_of_file(p) for p in inputs if Path(p).is_file()}, sort_keys=True),
        "seed": "none" if seed is None else str(seed),
    }
