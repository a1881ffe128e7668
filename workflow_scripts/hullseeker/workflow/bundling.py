"""Pack files into one tar with a manifest, for machines without a network.

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
# Folders left out of a checkout where git is not available.
_LEFT_OUT = {".git", ".venv", ".snakemake", "results", "logs", "benchmarks", "__pycache__"}


def files_of_checkout(root: Path) -> list[Path]:
    """Return relative paths of the files that git does not ignore; without git, of all but generated files."""
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
    """Return the files at or under a path by their path in the checkout. Raises ValueError if it lies outside."""
    absolute = path.absolute()
    if not absolute.is_relative_to(root.absolute()):
        raise ValueError(
            f"{path} lies outside this checkout, so the unpacked bundle would not find it; copy it into the checkout "
            "(data/ is ignored by git) and give that path in the config"
        )
    files = [absolute] if absolute.is_file() else [file for file in absolute.rglob("*") if file.is_file()]
    return {str(file.relative_to(root.absolute())): file for file in sorted(files)}


def snapshot_files(repository: Path, pattern: str = "*") -> dict[str, Path]:
    """Return the reference and snapshot files of a repository's main revision by their path in the hub cache.

    A hub cache links snapshot files to blobs; here files replace the links, which huggingface_hub reads as well.
    """
    reference = repository / "refs" / "main"
    snapshot = repository / "snapshots" / reference.read_text().strip()
    files = {f"refs/{reference.name}": reference}
    files |= {
        f"snapshots/{snapshot.name}/{file.relative_to(snapshot)}": file
        for file in sorted(snapshot.rglob(pattern))
        if file.is_file()
    }
    return {f"{repository.name}/{name}": file for name, file in files.items()}


def write_tar(
    target: Path, top: str, files: Mapping[str, Path], texts: Mapping[str, str], links: Mapping[str, str]
) -> int:
    """Write files, texts and relative links into a tar under one top folder; return the number of files and texts.

    The first member is a manifest for `sha256sum --check`. Modification times of files are kept because Snakemake
    compares them.
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
            if not member.isreg():  # tarfile stores a second hard link to a file as a link
                member.type, member.size = tarfile.REGTYPE, file.stat().st_size
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            with open(file, "rb") as handle:
                tar.addfile(member, handle)
    return len(lines)


def _name_in_line(line: str) -> str:
    return line.split("  ", 1)[1]


def links_among(names: Iterable[Path], root: Path) -> dict[str, str]:
    """Return the target of each name that is a symbolic link in the checkout."""
    return {str(name): str((root / name).readlink()) for name in names if (root / name).is_symlink()}
