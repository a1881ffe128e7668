"""Pack all that an experiment needs without a network (checkout, data, models and packages) into one tar file."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from hullseeker.language_model.hub_models import folder_in_cache, hub_cache
from hullseeker.potentials.registry import EVALUATORS
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to
from hullseeker.workflow.bundling import (
    MANIFEST,
    files_of_checkout,
    files_under,
    links_among,
    snapshot_files,
    write_tar,
)

LOCK = Path("requirements.lock")
LOCKS_OF_PACKAGES = {"fairchem-core": Path("requirements-uma.lock")}

UNPACK = """#!/bin/sh
# sh unpack.sh: checks every file, then makes .venv from these wheels. Needs Python 3.11, but no network.
set -eu
cd "$(dirname "$0")"
sha256sum --check --quiet {manifest}
${{PYTHON:-python3.11}} -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {{
    echo "Python 3.11 is needed: PYTHON=/path/to/python3.11 sh unpack.sh"; exit 1; }}
${{PYTHON:-python3.11}} -m venv checkout/.venv
checkout/.venv/bin/pip install --quiet --no-index --find-links wheels -r checkout/requirements.lock {extra}
touch checkout/.venv/installed
cat > checkout/offline.sh <<END
# . ./offline.sh: use this checkout's Python and models, without access to the hub.
export PATH="$PWD/checkout/.venv/bin:\\$PATH"
export HF_HUB_CACHE="$PWD/hub" FAIRCHEM_CACHE_DIR="$PWD/fairchem" HF_HUB_OFFLINE=1
END
echo "Now: cd $PWD/checkout && . ./offline.sh && snakemake preflight {configfile}"
"""
README = """Hullseeker, the experiment {experiment}, for machines without a network.

1. Copy this folder to a disk that all nodes can read.
2. sh unpack.sh             checks every file against {manifest} and makes checkout/.venv
3. cd checkout; . ./offline.sh
4. snakemake preflight {configfile}
5. snakemake --profile slurm {configfile}

The packages in wheels/ are for {platform} and Python {python}. See also docs/cluster.md.
"""


def pip_wheels(folder: Path, extra: Iterable[str]) -> None:
    """Download or build wheels of all packages of the lock and of `extra`; RuntimeError if pip fails."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder), "-r", str(LOCK), *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip cannot fetch the packages of {LOCK}: {done.stderr.strip()[-2000:]}")


def extra_packages(evaluators: Iterable[Mapping]) -> list[str]:
    """Return the evaluators' packages that the lock does not have; ValueError if one needs another Python."""
    evaluators = list(evaluators)
    if any(evaluator["engine"] == "torch_sim" for evaluator in evaluators):
        raise ValueError(
            "relax.engine is torch_sim, which needs Python 3.12 and packages that a bundle lacks; use per_cell, "
            "or build envs/torch_sim.yaml where there is a network (docs/cluster.md)"
        )
    pins = []
    packages = {EVALUATORS[evaluator["potential"]].package for evaluator in evaluators}
    for package in sorted(packages & LOCKS_OF_PACKAGES.keys()):
        lines = LOCKS_OF_PACKAGES[package].read_text().splitlines()
        pins += [line for line in lines if line.startswith(f"{package}==")]
    return pins


def weights_of(evaluators: Iterable[Mapping]) -> dict[str, Path]:
    """Return the evaluators' weights downloaded from the hub, by their path in the bundle."""
    weights = {}
    for settings in evaluators:
        evaluator = EVALUATORS[settings["potential"]]
        hub = evaluator.hub
        model = settings["model"] or evaluator.default_model
        if hub and model in evaluator.models:
            repository = hub.cache_folder() / folder_in_cache(hub.repository)
            files = snapshot_files(repository, f"{model}.pt")
            weights |= {f"fairchem/{name}": file for name, file in files.items()}
    return weights


def main(snakemake) -> None:
    params, root = snakemake.params, Path.cwd()
    with logging_to(snakemake.log[0], "pack_bundle") as log, tempfile.TemporaryDirectory(dir=".snakemake") as work:
        extra = extra_packages(params.evaluators)
        overlays = [name for path in params.overlays for name in files_under(Path(path), root)]
        names = files_of_checkout(root)
        links = links_among(names, root)
        inside = {str(name): root / name for name in names if str(name) not in links}
        for path in map(Path, [*params.named, *overlays, *snakemake.input]):
            inside |= files_under(path, root)
        files = {f"checkout/{name}": file for name, file in sorted(inside.items())}
        if params.hub_model:
            repository = hub_cache() / folder_in_cache(params.hub_model)
            files |= {f"hub/{name}": file for name, file in snapshot_files(repository).items()}
        files |= weights_of(params.evaluators)
        wheels = Path(work) / "wheels"
        pip_wheels(wheels, extra)
        files |= {f"wheels/{file.name}": file for file in sorted(wheels.iterdir())}
        fields = {
            "experiment": params.experiment,
            "manifest": MANIFEST,
            "configfile": f"--configfile {' '.join(overlays)}" if overlays else "",
            "extra": " ".join(extra),
            "platform": sys.platform,
            "python": "3.11",
        }
        texts = {"README.txt": README.format(**fields), "unpack.sh": UNPACK.format(**fields)}
        links_in_tar = {f"checkout/{name}": destination for name, destination in links.items()}
        n_bytes = sum(file.stat().st_size for file in files.values())
        free = shutil.disk_usage(root).free
        if n_bytes > free:
            raise OSError(
                f"the bundle needs {n_bytes / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; free some space"
            )
        with replacing(snakemake.output[0]) as temporary_path:
            n_files = write_tar(temporary_path, f"hullseeker-{params.experiment}", files, texts, links_in_tar)
        log.info("done: %d files, %.2f GB", n_files, n_bytes / 1e9)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
