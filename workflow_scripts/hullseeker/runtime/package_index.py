"""Download a file of the Python package index, without what its package depends on.

Needs: the standard library, and pip.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def download_wheel(name: str, version: str, folder: str | Path) -> Path:
    """Return the wheel of a package at a version, downloaded into a folder; RuntimeError where pip cannot get it."""
    return _download(f"{name}=={version}", folder, "--only-binary")


def download_sdist(name: str, version: str, sha256: str, folder: str | Path) -> Path:
    """Return the source archive of a package, downloaded into a folder; RuntimeError where pip cannot get it.

    pip asks the archive for its metadata, which runs code of it: only after its SHA-256 was found right.
    """
    return _download(f"{name}=={version} --hash=sha256:{sha256}", folder, "--no-binary")


def _download(requirement: str, folder: str | Path, restriction: str) -> Path:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    package = requirement.split()[0]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        requirements, target = Path(scratch) / "requirements.txt", Path(scratch) / "files"
        requirements.write_text(requirement + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += [restriction, package.split("==")[0], "--dest", str(target), "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = list(target.glob("*"))
        if done.returncode or not files:
            raise RuntimeError(f"pip could not download {package}: {done.stderr.strip()[-500:]}")
        kept = folder / files[0].name
        os.replace(files[0], kept)
    return kept
