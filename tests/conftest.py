"""Fixtures shared by the tests: crystals as table rows, and a trained CDVAE."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from hullseeker.tables.structures import from_structure


def make_row(structure: Structure, **columns) -> dict:
    return {**from_structure(structure), **columns}


@pytest.fixture
def rocksalt() -> dict:
    return make_row(
        Structure(
            Lattice([[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]]), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
        )
    )


@pytest.fixture
def copper() -> dict:
    return make_row(Structure(Lattice(3.61 / 2 * (np.ones((3, 3)) - np.eye(3))), ["Cu"], [[0, 0, 0]]))


@pytest.fixture(scope="session")
def learned(tmp_path_factory):
    """A CDVAE trained on copies of one crystal, the crystal, and the mean of its latent vector, shape (1, L)."""
    import torch

    from cdvae_examples import BOUNDS, graph_of, make, settings, some_structures
    from hullseeker.cdvae.data import Prepared, bonds_of_crystals
    from hullseeker.cdvae.training import Training

    crystal = make(some_structures()["perovskite"])
    config = settings(training={"n_epochs": 150, "batch_size": 64, "learning_rate": 4.0e-3, "save_every_epochs": 1000})
    config["training"] |= {"teacher_forcing_epochs": 150, "plateau_patience_epochs": 40}
    config["encoder"] |= {"n_blocks": 1}
    config["noise"] |= {"type_sigma_max": 1.0}
    (bonds,) = bonds_of_crystals([crystal], "radius", 5.0, 12)
    copies = Prepared([crystal] * 128, [bonds] * 128)
    checkpoint = tmp_path_factory.mktemp("learned") / "checkpoint.safetensors"
    model = Training(config, BOUNDS, copies, Prepared([], []), 3, checkpoint, "learned").run()
    with torch.no_grad():
        z, _ = model.encode(*graph_of([crystal], config, torch.float32))
    return model, crystal, z
