"""Files into one tar that carries its own manifest, for machines without a network.

Needs: the standard library, and git on the path (optional).
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

MANIFEST = "MANIFEST.sha256"
# Not part of a checkout where git cannot say what is.
_LEFT_OUT = {".git", ".venv", ".snakemake", "results", "logs", "benchmarks", "__pycache__"}


def files_of_checkout(root: Path) -> list[Path]:
    """Return the files of a checkout that git tracks or would, relative to it; without git all but what is made."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [Path(name) for name in listed.stdout.split("\0") if name]
    else:
        names = [path.relative_to(root) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()]
    return sorted({name for name in names if (root / name).exists() and not _LEFT_OUT & set(name.parts)})


def files_under(path: Path, root: Path) -> dict[str, Path]:
    """Return the files at or under a path inside a checkout, by their path in it; ValueError where it is outside."""
    absolute = path.absolute()
    if not absolute.is_relative_to(root.absolute()):
        raise ValueError(
            f"{path} lies outside of this checkout, and would not be found elsewhere; copy it into the checkout (data/ "
            "is ignored by git) and give that path in the config"
        )
    files = [absolute] if absolute.is_file() else [file for file in absolute.rglob("*") if file.is_file()]
    return {str(file.relative_to(root.absolute())): file for file in sorted(files)}


def snapshot_files(repository: Path, wanted: str = "*") -> dict[str, Path]:
    """Return what a hub cache needs of a repository's main revision: the reference and the snapshot's files.

    Names are those in the cache. A cache links to its blobs; here every file stands where the link was, which the hub's
    packages read as well.
    """
    reference = repository / "refs" / "main"
    snapshot = repository / "snapshots" / reference.read_text().strip()
    found = {f"refs/{reference.name}": reference}
    found |= {
        f"snapshots/{snapshot.name}/{file.relative_to(snapshot)}": file
        for file in sorted(snapshot.rglob(wanted))
        if file.is_file()
    }
    return {f"{repository.name}/{name}": file for name, file in found.items()}


def write_tar(
    target: Path, top: str, files: Mapping[str, Path], texts: Mapping[str, str], links: Mapping[str, str]
) -> int:
    """Write files, generated texts and relative links into a tar under one top folder; return the number of files.

    The first member is the manifest: `sha256sum --check` reads it. Modification times are kept, for Snakemake goes by
    them.
    """
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in texts.items()]
    for name, file in files.items():
        with open(file, "rb") as handle:
            lines.append(f"{hashlib.file_digest(handle, 'sha256').hexdigest()}  {name}\n")
    with tarfile.open(target, "w") as tar:
        for name, text in {MANIFEST: "".join(sorted(lines, key=_name_in_line)), **texts}.items():
            member, content = tarfile.TarInfo(f"{top}/{name}"), text.encode()
            member.size, member.mode = len(content), 0o755 if text.startswith("#!") else 0o644
            tar.addfile(member, io.BytesIO(content))
        for name, destination in links.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, destination
            tar.addfile(member)
        for name, file in files.items():
            member = tar.gettarinfo(file.resolve(), f"{top}/{name}")
            if not member.isreg():  # a second link to one file
                member.type, member.size = tarfile.REGTYPE, file.stat().st_size
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            with open(file, "rb") as handle:
                tar.addfile(member, handle)
    return len(lines)


def _name_in_line(line: str) -> str:
    return line.split("  ", 1)[1]


def links_among(names: Iterable[Path], root: Path) -> dict[str, str]:
    """Return which of these names are links within the checkout, and where each points."""
    return {str(name): str((root / name).readlink()) for name in names if (root / name).is_symlink()}
