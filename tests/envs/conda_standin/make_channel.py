"""Make a conda channel of two packages: a CPython of this machine, and pip from its wheel.

Usage: python make_channel.py CHANNEL PYTHON VERSION PIP_VERSION, with the Python of .venv-conda. A second call adds
another Python. The interpreter is packaged as VERSION, which environment files name, even if its patch level differs.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from conda_package_streaming.create import anonymize, conda_builder
from conda_package_streaming.package_streaming import stream_conda_info

BIN = Path(sys.executable).parent
LEFT_OUT = shutil.ignore_patterns("site-packages", "test", "tests", "__pycache__", "idlelib", "turtledemo", "*.a")
ABOUT = "import json, platform, sys; print(json.dumps([sys.base_prefix, platform.python_version()]))"


def lay_out(prefix: Path, minor: str, package: Path) -> None:
    """Copy an interpreter and its standard library, with library paths relative to the binaries."""
    for folder in ("bin", f"lib/python{minor}", "include", "info"):
        (package / folder).parent.mkdir(parents=True, exist_ok=True)
    (package / "bin").mkdir()
    (package / "info").mkdir()
    shutil.copy2(prefix / "bin" / f"python{minor}", package / "bin")
    for name in ("python3", "python"):
        os.symlink(f"python{minor}", package / "bin" / name)
    shutil.copytree(prefix / f"lib/python{minor}", package / f"lib/python{minor}", ignore=LEFT_OUT, symlinks=True)
    shutil.copytree(prefix / f"include/python{minor}", package / f"include/python{minor}")
    for library in prefix.glob("lib/libpython*.so*"):
        shutil.copy2(library, package / "lib" / library.name, follow_symlinks=False)
    site_packages = package / f"lib/python{minor}/site-packages"
    site_packages.mkdir()
    (site_packages / "README.txt").write_text("what is installed goes here\n")
    origins = {"bin": "$ORIGIN/../lib", "lib": "$ORIGIN", "lib-dynload": "$ORIGIN/../.."}
    binaries = [
        package / "bin" / f"python{minor}",
        *package.glob("lib/libpython*.so*"),
        *package.glob("lib/*/lib-dynload/*.so"),
    ]
    for binary in filter(lambda path: not path.is_symlink(), binaries):
        subprocess.run([BIN / "patchelf", "--set-rpath", origins[binary.parent.name], binary], check=True)


def describe(package: Path, version: str, minor: str) -> None:
    """Write the conda metadata of a package."""
    files = sorted(p for p in package.rglob("*") if (p.is_file() or p.is_symlink()) and p.parent != package / "info")
    paths = [
        {"_path": file.relative_to(package).as_posix(), "path_type": "softlink" if file.is_symlink() else "hardlink"}
        | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size_in_bytes": file.stat().st_size}
        for file in files
    ]
    index = {
        "name": "python",
        "version": version,
        "build": "0_cpython",
        "build_number": 0,
        "depends": [],
        "subdir": "linux-64",
    }
    index |= {"arch": "x86_64", "platform": "linux", "python_site_packages_path": f"lib/python{minor}/site-packages"}
    for name, content in {
        "index.json": json.dumps(index),
        "paths.json": json.dumps({"paths": paths, "paths_version": 1}),
        "files": "".join(f"{path['_path']}\n" for path in paths),
        "about.json": "{}",
    }.items():
        (package / "info" / name).write_text(content)


def pack_python(channel: Path, python: str, version: str) -> None:
    """Add the interpreter to the channel."""
    output = subprocess.run([python, "-c", ABOUT], capture_output=True, text=True, check=True).stdout
    prefix, installed = json.loads(output)
    if prefix == "/usr":
        sys.exit(
            f"{python} is the system's, which cannot be copied; put a CPython with its own prefix first on the path"
        )
    minor = ".".join(version.split(".")[:2])
    if not installed.startswith(f"{minor}."):
        sys.exit(f"{python} is Python {installed}, but the environment files need {version}; give a Python {minor}")
    if installed != version:
        print(f"Python {installed} is used in place of {version}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as work:
        package = Path(work) / f"python-{version}-0_cpython"
        package.mkdir()
        lay_out(Path(prefix), minor, package)
        describe(package, version, minor)
        with conda_builder(package.name, channel / "linux-64", compression_level=1) as archive:
            for path in sorted(package.rglob("*")):
                archive.add(path, path.relative_to(package).as_posix(), recursive=False, filter=anonymize)


def pack_pip(channel: Path, version: str) -> None:
    """Add pip to the channel, from its wheel."""
    with tempfile.TemporaryDirectory() as work:
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", work, f"pip=={version}"]
        subprocess.run(download, check=True)
        (wheel,) = Path(work).glob("*.whl")
        subprocess.run(
            [
                BIN / "whl2conda",
                "convert",
                wheel,
                "--format",
                "conda",
                "--out-dir",
                channel / "noarch",
                "--overwrite",
                "-q",
            ],
            check=True,
        )


def write_index(channel: Path) -> None:
    """Write repodata.json for each folder of the channel."""
    for subdir in ("noarch", "linux-64"):
        records = {}
        for file in sorted((channel / subdir).glob("*.conda")):
            about = next(
                json.load(tar.extractfile(m)) for tar, m in stream_conda_info(str(file)) if m.name == "info/index.json"
            )
            content = file.read_bytes()
            sums = {"md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest()}
            records[file.name] = about | {"subdir": subdir, "size": len(content)} | sums
        index = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": records, "repodata_version": 1}
        (channel / subdir / "repodata.json").write_text(json.dumps(index))


def main() -> None:
    channel, python, version, pip_version = Path(sys.argv[1]).resolve(), *sys.argv[2:]
    for subdir in ("noarch", "linux-64"):
        (channel / subdir).mkdir(parents=True, exist_ok=True)
    pack_python(channel, python, version)
    pack_pip(channel, pip_version)
    write_index(channel)


if __name__ == "__main__":
    main()
