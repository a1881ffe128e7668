"""Crystals that the tests share, as table rows."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from hullseeker.structures import from_structure


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
