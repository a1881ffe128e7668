"""A Slurm for all tests in this folder; if it cannot be started, the tests fail instead of being skipped."""

import os

import pytest
from checkouts import Run
from slurm_cluster import SlurmCluster


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.fail(
            "the Slurm of the tests needs root, because slurmd starts jobs as their users; run the tests as root"
        )
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm") / "root")
    try:
        cluster.start()
        yield cluster
    finally:
        for run in Run.all:
            run.process.kill()
        cluster.stop()
