"""Where a table came from: hashes, versions and seeds.

Needs: the standard library and git on the path (optional).
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "snakemake",
    "torch",
    "transformers",
    "trl",
    "peft",
    "pymatgen",
    "chgnet",
    "sevenn",
    "fairchem-core",
    "torch-sim-atomistic",
    "matminer",
    "smact",
    "pyarrow",
)


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
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {
            "git_commit": git("rev-parse", "HEAD"),
            "git_dirty": str(bool(git("status", "--porcelain", "-uno"))).lower(),
        }
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
        "inputs_sha256": json.dumps({str(p): sha256_of_file(p) for p in inputs if Path(p).is_file()}, sort_keys=True),
        "seed": "none" if seed is None else str(seed),
    }


def sha256_of_path(path: str | Path) -> str:
    """Return the SHA-256 of a file, of the names and contents in a folder, or of the name where neither is there."""
    path = Path(path)
    if path.is_file():
        return sha256_of_file(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return sha256_of_json({str(p.relative_to(path)): sha256_of_file(p) for p in files})
    return sha256_of_json(str(path))


def cif_files_of(path: str | Path) -> list[Path]:
    """Return the path itself, or where it is a folder the files in it and its folders that a name says are CIF.

    Names are compared without regard to case, and packed files count (a.CIF, b.cif.gz); hidden files do not.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = (file for file in path.rglob("*") if re.search(r"\.m?cif(\.|$)", file.name, re.IGNORECASE))
    visible = (file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts))
    return sorted(file for file in visible if file.is_file())
