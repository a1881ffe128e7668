"""A stand-in for the command conda, for tests: the calls that Snakemake 9 makes, with a real solver and real packages.

Needs: .venv-conda (py-rattler, PyYAML). CONDA_STANDIN_CHANNELS names a folder that holds channels, such as conda-forge.
What it is for: an environment that has what its file names and nothing of the host's. It is not conda.
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

VERSION = "24.7.1"  # the oldest that Snakemake takes


async def create(about: dict, prefix: Path) -> None:
    """Solve and install the conda part of an environment file, then its pip part."""
    of_conda = [wanted for wanted in about["dependencies"] if isinstance(wanted, str)]
    of_pip = [one for wanted in about["dependencies"] if isinstance(wanted, dict) for one in wanted["pip"]]
    channels = [f"{Path(os.environ['CONDA_STANDIN_CHANNELS']).as_uri()}/{name}" for name in about["channels"]]
    records = await solve(
        channels, of_conda, platforms=["linux-64", "noarch"], virtual_packages=VirtualPackage.detect()
    )
    await install(records, prefix, show_progress=False)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(of_pip))
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
    elif words[:1] == ["clean"]:  # of downloads, of which the stand-in keeps none
        pass
    elif words[:2] == ["env", "create"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--file", required=True, type=Path)
        parser.add_argument("--prefix", required=True, type=Path)
        for flag in ("--quiet", "--no-default-packages"):
            parser.add_argument(flag, action="store_true")
        asked = parser.parse_args(words[2:])
        asyncio.run(create(yaml.safe_load(asked.file.read_text()), asked.prefix))
    else:
        sys.exit(f"the stand-in for conda does not know: conda {' '.join(words)}")


if __name__ == "__main__":
    main(sys.argv[1:])
