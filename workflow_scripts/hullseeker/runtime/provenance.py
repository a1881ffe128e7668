"""Provenance of tables: hashes of files and settings, package versions, git state, and seeds.

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
    """Return a 63-bit seed derived from the config's seed and the parts that name its purpose; platform-independent."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in (seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@cache
def _git_state() -> dict[str, str]:
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
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
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return json.dumps(versions, sort_keys=True)


def describe_run(settings: Mapping, inputs: Iterable[str | Path] = (), seed: int | None = None) -> dict[str, str]:
    """Return the metadata of a table: git state, package versions, hashes of settings and inputs, and the seed."""
    return {
        **_git_state(),
        "package_versions": _versions(),
        "settings_sha256": sha256_of_json(dict(settings)),
        "inputs_sha256": json.dumps({str(p): sha256_of_file(p) for p in inputs if Path(p).is_file()}, sort_keys=True),
        "seed": "none" if seed is None else str(seed),
    }


def sha256_of_path(path: str | Path) -> str:
    """Return the SHA-256 of a file, of a folder (names and contents), or of the path itself if nothing is there."""
    path = Path(path)
    if path.is_file():
        return sha256_of_file(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return sha256_of_json({str(p.relative_to(path)): sha256_of_file(p) for p in files})
    return sha256_of_json(str(path))


def cif_files_of(path: str | Path) -> list[Path]:
    """Return the path itself, or the sorted CIF files of a folder and its subfolders, by file name.

    Ignores case, includes compressed files (a.CIF, b.cif.gz) and skips hidden files.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = (file for file in path.rglob("*") if re.search(r"\.m?cif(\.|$)", file.name, re.IGNORECASE))
    visible = (file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts))
    return sorted(file for file in visible if file.is_file())
