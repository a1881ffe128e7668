"""The fingerprint kernel against matminer's plain loop, on real crystals and on random ones; its invariances."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.core import Lattice, Structure

from hullseeker.metrics.crystal_nn import site_fingerprints
from hullseeker.metrics.fingerprints import structure_fingerprint
from hullseeker.tables.structures import to_structure

DEMO = Path(__file__).parents[2] / "resources" / "demo_materials.parquet"
MATMINER = CrystalNNFingerprint.from_preset("ops")
# A sum of Legendre polynomials that is zero up to rounding (1e-15) has a root of 3e-8: q2 in close packings.
TOLERANCE = 1e-7


def by_matminer(structure):
    return np.array([MATMINER.featurize(structure, site) for site in range(len(structure))])


def one_of_each_prototype():
    rows = pq.read_table(DEMO, columns=["prototype", "lattice_ang", "atomic_numbers", "frac_coords"]).to_pylist()
    first = {row["prototype"]: row for row in reversed(rows)}
    return [pytest.param(first[name], id=str(name)) for name in sorted(first, key=str)]


def random_structure(rng, n_atoms, longest_ang=10.0, closest_ang=None):
    lattice = Lattice.from_parameters(*rng.uniform(3, longest_ang, 3), *rng.uniform(70, 110, 3))
    structure = Structure(lattice, rng.integers(1, 95, n_atoms).tolist(), rng.random((n_atoms, 3)))
    if closest_ang is not None:
        structure.append(int(rng.integers(1, 95)), structure[0].coords + [0, 0, closest_ang], coords_are_cartesian=True)
    return structure


@pytest.mark.parametrize("row", one_of_each_prototype())
def test_embedded_prototypes(row):
    structure = to_structure(row)
    found, _ = site_fingerprints(structure)
    np.testing.assert_allclose(found, by_matminer(structure), atol=TOLERANCE)
    np.testing.assert_allclose(structure_fingerprint(structure), found.mean(axis=0), atol=1e-15)


@pytest.mark.parametrize("seed", range(24))
def test_random_cells_even_with_atoms_almost_in_one_place(seed):
    rng = np.random.default_rng(seed)
    closest_ang = rng.uniform(0.05, 0.5) if seed % 2 else None
    structure = random_structure(rng, int(rng.integers(1, 8)), closest_ang=closest_ang)
    try:
        expected = by_matminer(structure)
    except (RuntimeError, ValueError):
        with pytest.raises(ValueError, match="Voronoi cell"):
            site_fingerprints(structure)
        return
    np.testing.assert_allclose(site_fingerprints(structure)[0], expected, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(6))
def test_order_rotation_and_supercell_change_nothing(seed):
    rng = np.random.default_rng(100 + seed)
    structure = random_structure(rng, 6, longest_ang=6.0)
    found, _ = site_fingerprints(structure)
    order = rng.permutation(len(structure))
    permuted = Structure.from_sites([structure[int(site)] for site in order])
    np.testing.assert_allclose(site_fingerprints(permuted)[0], found[order], atol=TOLERANCE)

    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    lattice = Lattice(structure.lattice.matrix @ rotation)
    turned = Structure(lattice, structure.species, structure.frac_coords + rng.integers(-3, 3, (6, 3)))
    np.testing.assert_allclose(site_fingerprints(turned)[0], found, atol=TOLERANCE)

    large = structure.make_supercell([[1, 1, 0], [0, 2, 0], [0, 0, 1]], in_place=False)
    np.testing.assert_allclose(structure_fingerprint(large), found.mean(axis=0), atol=TOLERANCE)
