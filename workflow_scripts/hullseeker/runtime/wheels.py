"""Download a wheel of the Python package index, without what it depends on.

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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command += ["--only-binary", ":all:", "--dest", scratch, f"{name}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise RuntimeError(f"pip could not download {name}=={version}: {done.stderr.strip()[-500:]}")
        target = folder / wheels[0].name
        os.replace(wheels[0], target)
    return target
