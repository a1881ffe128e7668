"""A stand-in for conda in tests: it handles the calls of Snakemake 9 with a real solver and real packages.

Needs: .venv-conda (py-rattler, PyYAML). CONDA_STANDIN_CHANNELS is a folder with channels, such as conda-forge.
The environments contain exactly what their files name and nothing from the host.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from rattler import VirtualPackage, install, solve

VERSION = "24.7.1"  # oldest version that Snakemake accepts


async def create(environment: dict, prefix: Path) -> None:
    """Solve and install the conda part of an environment file, then its pip part."""
    conda_specs = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip_specs = [spec for entry in environment["dependencies"] if isinstance(entry, dict) for spec in entry["pip"]]
    channels = [f"{Path(os.environ['CONDA_STANDIN_CHANNELS']).as_uri()}/{name}" for name in environment["channels"]]
    records = await solve(
        channels, conda_specs, platforms=["linux-64", "noarch"], virtual_packages=VirtualPackage.detect()
    )
    await install(records, prefix, show_progress=False)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pip_specs))
        file.flush()
        pip = [prefix / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"]
        subprocess.run([*pip, "--exists-action=b", "-r", file.name], check=True)


def main(words: list[str]) -> None:
    home = Path(os.environ["CONDA_STANDIN_HOME"])
    if words == ["--version"]:
        print(f"conda {VERSION}")
    elif words[:1] == ["info"]:
        print(json.dumps({"conda_prefix": str(home), "platform": "linux-64", "conda_version": VERSION}))
    elif words[:1] == ["config"]:
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif words[:1] == ["clean"]:  # the stand-in keeps no downloads
        pass
    elif words[:2] == ["env", "create"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--file", required=True, type=Path)
        parser.add_argument("--prefix", required=True, type=Path)
        for flag in ("--quiet", "--no-default-packages"):
            parser.add_argument(flag, action="store_true")
        arguments = parser.parse_args(words[2:])
        asyncio.run(create(yaml.safe_load(arguments.file.read_text()), arguments.prefix))
    else:
        sys.exit(f"the stand-in for conda does not support: conda {' '.join(words)}")


if __name__ == "__main__":
    main(sys.argv[1:])
