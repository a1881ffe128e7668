"""A Slurm for all tests of this folder. Where it cannot be had, the tests fail: they are not skipped."""

import os

import pytest
from checkouts import Run
from slurm_cluster import SlurmCluster


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.fail("the Slurm of the tests needs root: slurmd starts jobs as their users")
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm") / "root")
    try:
        cluster.start()
        yield cluster
    finally:
        for run in Run.all:
            run.process.kill()
        cluster.stop()
