"""Files and folders that appear under their name whole or not at all.

Needs: the standard library.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path


class replacing:  # noqa: N801  reads as a verb: `with replacing(path) as beside:`
    """Context manager: hand out a path beside `path`; on success rename it over `path`, on error remove it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".partial")
        os.close(handle)
        self.beside = Path(name)
        return self.beside

    def __exit__(self, kind, error, _traceback) -> None:
        if kind is None:
            try:
                with open(self.beside, "rb") as handle:
                    os.fsync(handle.fileno())
                os.chmod(self.beside, 0o644)
                os.replace(self.beside, self.path)
            except OSError:
                self.beside.unlink(missing_ok=True)
                raise
            return
        self.beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"the disk is full; {self.path.name} was not written. Free space and run again",
                str(self.path),
            ) from None


class replacing_folder:  # noqa: N801  as `replacing`, file by file
    """Context manager: hand out an empty folder beside `path`; on success move its files over those in `path`.

    A job that Slurm has given up can live on beside its retry: who reads the folder meets each file whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.beside = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".partial"))
        return self.beside

    def __exit__(self, kind, error, _traceback) -> None:
        try:
            if kind is None:
                self.path.mkdir(exist_ok=True)
                for file in sorted(self.beside.iterdir()):
                    os.replace(file, self.path / file.name)
        finally:
            shutil.rmtree(self.beside)
