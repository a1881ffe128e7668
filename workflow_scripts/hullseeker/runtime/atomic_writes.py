"""Atomic writes: a file appears under its final name only once it is complete.

Needs: the standard library.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path


class replacing:  # noqa: N801  used as a function: `with replacing(path) as beside:`
    """Context manager: yield a temporary path next to `path`; rename it to `path` on success, delete it on error.

    Raises OSError, with what to do, if the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".partial")
        os.close(handle)
        self.temporary = Path(name)
        return self.temporary

    def __exit__(self, kind, error, _traceback) -> None:
        if kind is None:
            try:
                with open(self.temporary, "rb") as handle:
                    os.fsync(handle.fileno())
                os.chmod(self.temporary, 0o644)
                os.replace(self.temporary, self.path)
            except OSError:
                self.temporary.unlink(missing_ok=True)
                raise
            return
        self.temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"the disk is full; {self.path.name} was not written. Free space and run again",
                str(self.path),
            ) from None


class replacing_folder:  # noqa: N801  used as a function, like `replacing`
    """Context manager: yield an empty folder next to `path`; on success move its files into `path` one by one.

    Each file is replaced atomically, so readers see complete files even while a job that Slurm has declared lost
    still runs next to its retry.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".partial"))
        return self.temporary

    def __exit__(self, kind, error, _traceback) -> None:
        try:
            if kind is None:
                self.path.mkdir(exist_ok=True)
                for file in sorted(self.temporary.iterdir()):
                    os.replace(file, self.path / file.name)
        finally:
            shutil.rmtree(self.temporary)
