"""Order parameters of textbook crystals, Voronoi cells, and what happens at the kernel's limits."""

import math

import numpy as np
import pytest
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.core import Lattice, Structure

import hullseeker.metrics.crystal_nn as crystal_nn
from hullseeker.metrics.crystal_nn import N_FEATURES, OpenCellError, site_fingerprints
from hullseeker.metrics.fingerprints import TimeLimitError, time_limit

MATMINER = CrystalNNFingerprint.from_preset("ops")
LABELS = MATMINER.feature_labels()
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
DIAMOND = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.567), ["C"], [[0, 0, 0]])
COPPER = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]])
MAGNESIUM = Structure(
    Lattice.hexagonal(3.2, 3.2 * math.sqrt(8 / 3)), ["Mg", "Mg"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
)
IRON = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
SHEET = Structure(Lattice.hexagonal(2.5, 30), ["B", "N"], [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]])
ROD = Structure(Lattice.cubic(8), ["C", "O", "O"], [[0.5, 0.5, 0.5], [0.645, 0.5, 0.5], [0.355, 0.5, 0.5]])
# Chiral: no mirror makes the order of equal neighbours irrelevant.
SRSI2 = Structure.from_spacegroup("P4_332", Lattice.cubic(6.535), ["Sr", "Si"], [[0.125] * 3, [0.4228] * 3])


def by_matminer(structure):
    return np.array([MATMINER.featurize(structure, site) for site in range(len(structure))])


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (SALT, {"wt CN_6": 1, "octahedral CN_6": 1}),
        (DIAMOND, {"wt CN_4": 1, "tetrahedral CN_4": 1}),
        # Steinhardt et al. 1983: q4 and q6 of the close packings
        (COPPER, {"wt CN_12": 1, "cuboctahedral CN_12": 1, "q2 CN_12": 0, "q4 CN_12": 0.19094, "q6 CN_12": 0.57452}),
        (MAGNESIUM, {"wt CN_12": 1, "q4 CN_12": 0.09722, "q6 CN_12": 0.48476}),
        (SHEET, {"wt CN_3": 1, "trigonal planar CN_3": 1}),
        (ROD, {"wt CN_2": 1, "linear CN_2": 1}),
    ],
    ids=["rock salt", "diamond", "fcc", "hcp", "sheet", "linear"],
)
def test_textbook_environments(structure, expected):
    (first, *_), asked = site_fingerprints(structure)
    assert {label: first[LABELS.index(label)] for label in expected} == pytest.approx(expected, abs=1e-5)
    assert asked == 0


def bcc_second() -> float:
    """Return the weight of bcc's second neighbours, that of the first eight being 1.

    Truncated octahedron, lattice constant 1: 6 squares of side sqrt(2)/4 at 1/2, 8 hexagons of the same side. A face
    weighs solid angle squared over area.
    """
    side = math.sqrt(2) / 4
    angle_square = 4 * math.asin((side / 2) ** 2 / ((side / 2) ** 2 + 0.25))
    angle_hexagon = (4 * math.pi - 6 * angle_square) / 8
    return (angle_square**2 / side**2) / (angle_hexagon**2 / (3 * math.sqrt(3) / 2 * side**2))


BCC_SECOND = bcc_second()


def test_bcc_by_hand():
    # The first eight are as likely as the quarter circle's area from the rounded weight of the others to 1.
    w = round(BCC_SECOND, 3)
    eight = 1 - 2 / math.pi * (w * math.sqrt(1 - w * w) + math.asin(w))
    (found, other), _ = site_fingerprints(IRON)
    np.testing.assert_allclose(found, other, atol=1e-12)
    expected = {"wt CN_8": eight, "body-centered cubic CN_8": eight, "wt CN_14": 1 - eight}
    assert {label: found[LABELS.index(label)] for label in expected} == pytest.approx(expected, abs=1e-5)


def test_cells_fill_the_space():
    rng = np.random.default_rng(3)
    for _ in range(5):
        lattice = Lattice(4 * np.eye(3) + rng.uniform(-1, 1, (3, 3)))
        structure = Structure(lattice, ["Si"] * 5, rng.random((5, 3)))
        volume_ang3 = 0.0
        for site in structure:
            around = np.array([n.coords for n in structure.get_neighbors(site, 9.0)]) - site.coords
            cell = crystal_nn._closed_cell(around, np.zeros(len(around), dtype=int))
            distance = np.linalg.norm(cell.vectors_ang, axis=1)
            solid_angle, area = crystal_nn._faces(distance, cell.vertices_ang, cell.edge_vertices, cell.edge_faces)
            assert solid_angle.sum() == pytest.approx(4 * math.pi)
            volume_ang3 += (area * distance / 6).sum()
        assert volume_ang3 == pytest.approx(lattice.volume)


def test_where_order_or_angles_are_ties_pymatgen_is_asked():
    found, asked = site_fingerprints(SRSI2)
    assert asked == 4  # the four Sr
    np.testing.assert_allclose(found, by_matminer(SRSI2), atol=1e-7)
    # Neighbours at exactly 135 degrees: the limit of several motifs.
    angles = [0, 90, 135, 225, 270]
    vectors = np.array([[math.cos(math.radians(a)), math.sin(math.radians(a)), 0.0] for a in angles])
    values, was_asked = crystal_nn._order_parameters(5, vectors[None])
    assert was_asked.all()
    expected = [crystal_nn._by_pymatgen(kind, p, vectors) for kind, p in crystal_nn._MOTIFS[5]]
    np.testing.assert_allclose(values[0], expected, atol=1e-9)


@pytest.mark.parametrize("cn", range(1, 13))
def test_order_parameters_of_any_neighbours_are_pymatgens(cn):
    rng = np.random.default_rng(cn)
    vectors = rng.normal(size=(12, cn, 3))
    vectors[:4] = np.round(vectors[:4])  # right angles, opposite and parallel neighbours
    vectors[~vectors.any(axis=2)] = [0.0, 0.0, 1.0]
    found, _ = crystal_nn._order_parameters(cn, vectors)
    expected = [[crystal_nn._by_pymatgen(kind, p, v) for kind, p in crystal_nn._MOTIFS[cn]] for v in vectors]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_weights_between_two_rounded_ones_are_matminers(monkeypatch):
    # Second neighbours fade until they weigh 0.1235 (of 1 for the first eight).
    low = 2.6
    high = low + (2.87 - low) / (math.acos(2 * 0.1235 / BCC_SECOND - 1) / math.pi)
    tables = (np.ones((1, 1)), np.full((1, 1), low), np.full((1, 1), high))
    monkeypatch.setattr(crystal_nn, "_pair_tables", lambda _: tables)
    assert site_fingerprints(IRON)[1] == 2
    tables[2][:] += 1e-6
    assert site_fingerprints(IRON)[1] == 0


def test_atoms_in_one_place_are_matminers():
    close = Structure(Lattice.cubic(4), ["Na", "Na", "Cl"], [[0, 0, 0], [0.001, 0, 0], [0.5, 0.4, 0.3]])
    found, asked = site_fingerprints(close)
    assert asked == 2
    np.testing.assert_allclose(found, by_matminer(close), atol=1e-7)


def test_species_that_are_not_elements_are_matminers():
    charged = SALT.get_primitive_structure()
    charged.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    found, asked = site_fingerprints(charged)
    assert asked == 2
    np.testing.assert_allclose(found, by_matminer(charged), atol=1e-12)


@pytest.mark.parametrize(
    "structure",
    [
        Structure(Lattice.cubic(9), ["Xe"], [[0, 0, 0]]),  # nothing within 7 Å
        Structure(Lattice.tetragonal(3, 20), ["Cu"], [[0, 0, 0]]),  # one layer within 7 Å
        Structure(Lattice.orthorhombic(3, 15, 16), ["Cu"], [[0, 0, 0]]),  # a chain
    ],
    ids=["far", "layer", "chain"],
)
def test_the_search_widens_as_pymatgens_does(structure):
    found, asked = site_fingerprints(structure)
    assert asked == 0
    np.testing.assert_allclose(found, by_matminer(structure), atol=1e-7)


def test_cells_open_by_a_rounding_error_are_matminers():
    # Within 7 Å, all other atoms lie on one side of a layer, or in it; Qhull may or may not call that closed.
    lattice = Lattice.from_parameters(3.031, 4.254, 26.09, 80.35, 113.27, 105.31)
    layers = Structure(lattice, ["Cu", "Au", "O"], [[0, 0, 0], [0.47, 0.52, 0.05], [0.21, 0.93, 0.1]])
    found, asked = site_fingerprints(layers)
    assert asked >= 1
    np.testing.assert_allclose(found, by_matminer(layers), atol=1e-7)


def test_failures_where_matminer_fails():
    # Within 7 Å lie three other atoms, all on one side: Qhull lists no face.
    corner = Structure(Lattice.cubic(14), ["Na"] * 4, [[0, 0, 0], [0.3, 0, 0], [0, 0.3, 0], [0, 0, 0.3]])
    with pytest.raises(ValueError, match="No Voronoi neighbors"):
        MATMINER.featurize(corner, 0)
    with pytest.raises(OpenCellError, match="one vertex"):
        site_fingerprints(corner)
    with pytest.raises(ValueError, match="no radius of Og"):
        site_fingerprints(Structure(Lattice.cubic(3), ["Og"], [[0, 0, 0]]))
    with pytest.raises(ValueError, match="periodic points within 7 Å"):
        site_fingerprints(Structure(Lattice(np.diag([0.05, 0.05, 0.05])), ["Na"], [[0, 0, 0]]))
    with pytest.raises(OpenCellError, match=r"site 0 has no closed Voronoi cell of atoms within 7\.0 Å"):
        crystal = Structure(Lattice.cubic(3), ["Na"], [[0, 0, 0]])
        environments = crystal_nn._Environments(crystal)
        environments._cell(0, (np.vstack([np.eye(3), np.full(3, 0.9)]), np.zeros(4, dtype=int)))


def test_a_time_limit_stops_it():
    rng = np.random.default_rng(0)
    large = Structure(Lattice.cubic(14), rng.integers(1, 90, 200).tolist(), rng.random((200, 3)))
    with pytest.raises(TimeLimitError), time_limit(0.02):
        site_fingerprints(large)
    assert site_fingerprints(large)[0].shape == (200, N_FEATURES)
