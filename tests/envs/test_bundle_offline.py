"""Unpack the tar of `snakemake bundle` in another folder and run it there without package index or hub.

The lock is reduced to what Snakemake and the first jobs need.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from test_envs import copy_of_checkout

from pin import closure, direct_requirements, read_lock
from rule_environments import ROOT

TARGET = "results/test/data/materials.parquet"
WORDS = ["--cores", "1", "--configfile", "experiments/test.yaml"]


def reduce_lock(checkout: Path) -> None:
    """Keep in the lock only Snakemake and what the rules for data need."""
    lock = checkout / "requirements.lock"
    lines = direct_requirements((ROOT / "envs" / "hullseeker.yaml").read_text())
    needed = closure({canonicalize_name(line["name"]): frozenset() for line in lines} | {"snakemake": frozenset()})
    lock.write_text("\n".join(line for name, line in sorted(read_lock(lock).items()) if name in needed) + "\n")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("packed") / "hullseeker")
    reduce_lock(checkout)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "bundle", *WORDS], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return checkout / "results" / "bundles" / "test.tar"


def test_a_bundle_runs_where_there_is_no_network(bundle, tmp_path):
    with tarfile.open(bundle) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    no_network = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "HF_ENDPOINT": "http://127.0.0.1:9"}
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "VIRTUAL_ENV"))
    } | no_network
    done = subprocess.run(["sh", "unpack.sh"], cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "snakemake preflight --configfile experiments/test.yaml" in done.stdout
    done = subprocess.run(
        ["sh", "-c", f". ./offline.sh && snakemake {TARGET} {' '.join(WORDS)}"],
        cwd=folder / "checkout",
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert (folder / "checkout" / TARGET).is_file()
