"""Counted rotations: spglib's group where there is one, and nothing that depends on how a crystal is written."""

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hullseeker.rewards.point_symmetry import n_point_operations

UNIMODULAR = [
    np.eye(3),
    [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    [[1, 0, 0], [-1, 1, 2], [0, 0, 1]],
    [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
]


def count(atoms: Atoms, tolerance_ang: float = 0.02) -> int:
    return n_point_operations(atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers, tolerance_ang)


def by_spglib(atoms: Atoms, tolerance_ang: float = 1e-3) -> int:
    found = spglib.get_symmetry((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=tolerance_ang)
    return len(np.unique(found["rotations"].reshape(-1, 9), axis=0))


@pytest.mark.parametrize(
    ("atoms", "order"),
    [
        (bulk("Cu", "fcc", a=3.6), 48),
        (bulk("Cu", "fcc", a=3.6, cubic=True), 48),
        (bulk("NaCl", "rocksalt", a=5.6), 48),
        (bulk("ZnS", "zincblende", a=5.4), 24),
        (bulk("Mg", "hcp", a=3.2, c=5.2), 24),
        (bulk("ZnO", "wurtzite", a=3.25, c=5.2), 12),
        (bulk("Hg", "rhombohedral", a=3.0, alpha=70.5), 12),
        (bulk("In", "bct", a=3.2, c=4.9), 16),
    ],
    ids=lambda value: value.get_chemical_formula() if isinstance(value, Atoms) else str(value),
)
def test_the_point_groups_of_textbook_crystals(atoms, order):
    assert count(atoms) == by_spglib(atoms) == order


def test_every_embedded_prototype_has_the_order_that_spglib_finds():
    """Exact crystals: within a thousandth of an Ångström a set of operations is a group, and both must agree."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    checked = 0
    for entry in AFLOW_PROTOTYPE_LIBRARY[::4]:
        structure = entry["snl"].structure
        if len(structure) > 24:
            continue
        atoms = Atoms(
            [s.specie.symbol for s in structure],
            scaled_positions=structure.frac_coords,
            cell=structure.lattice.matrix,
            pbc=True,
        )
        assert count(atoms, 1e-3) == by_spglib(atoms), entry["tags"]
        checked += 1
    assert checked > 30


def test_what_is_nearly_cubic_counts_as_cubic_and_what_is_farther_off_does_not():
    """A sheared cube: 16 operations keep it (tetragonal), the other 32 within the tolerance alone."""
    atoms = bulk("Po", "sc", a=3.0)
    atoms.set_cell(np.diag([3.0, 3.0, 3.04]), scale_atoms=True)
    assert (count(atoms, 0.05), count(atoms, 0.03)) == (48, 16)


def test_an_atom_off_its_site_breaks_what_it_breaks():
    """The titanium of a perovskite, moved along an axis: 4mm, 8 of 48; moved anywhere: 1."""
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    atoms = Atoms("BaTiO3", scaled_positions=sites, cell=[4, 4, 4], pbc=True)
    assert count(atoms, 0.05) == 48
    atoms.positions[1, 2] += 0.2
    assert count(atoms, 0.05) == 8
    atoms.positions[1] += (0.1, 0.3, 0)
    assert count(atoms, 0.05) == 1
    assert count(atoms, 0.7) == 48


def test_operations_within_the_tolerance_need_not_be_a_group():
    """An atom at (0.13, 0.17, 0.2): x and y, and y and z, may be swapped, but not one after the other."""
    atoms = Atoms("NaCl", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=[4, 4, 4], pbc=True)
    atoms.positions[1] += (0.13, 0.17, 0.2)
    # Half of the way that the atom is off goes into the common shift: 0.028, 0.021, and 0.049 for x and z.
    assert [count(atoms, tolerance) for tolerance in (0.02, 0.025, 0.03, 0.06)] == [1, 2, 3, 6]


def test_a_cell_that_cannot_be_reduced_is_an_error_and_no_symmetry():
    with pytest.raises(ValueError, match="no Niggli cell"):
        n_point_operations(np.zeros((3, 3)), np.zeros((1, 3)), np.array([11]), 0.05)


def test_a_supercell_has_the_symmetry_of_its_crystal():
    assert count(bulk("NaCl", "rocksalt", a=5.6).repeat((1, 2, 3))) == 48


def hundredths(lowest: int, highest: int) -> st.SearchStrategy[float]:
    """As crystals are written; nothing then lies just at a tolerance of 0.001 Å."""
    return st.integers(lowest, highest).map(lambda i: i / 100)


@settings(max_examples=60, deadline=None)
@given(
    arrays(float, (3, 3), elements=hundredths(-100, 100)),
    arrays(float, (4, 3), elements=hundredths(0, 99)),
    st.sampled_from(UNIMODULAR),
    st.permutations(range(4)),
    arrays(float, 3, elements=hundredths(-100, 100)),
)
def test_neither_basis_nor_order_nor_origin_matters(strain, coords, basis, order, origin):
    """And the count is one of rotations: 1 to 48, whatever the cell."""
    cell = 4.0 * np.eye(3) + strain
    numbers = np.array([8, 8, 22, 56])
    found = n_point_operations(cell, coords, numbers, 1e-3)
    assert 1 <= found <= 48
    basis = np.array(basis, dtype=float)
    moved = ((coords @ np.linalg.inv(basis)) + origin)[list(order)]
    assert n_point_operations(basis @ cell, moved, numbers[list(order)], 1e-3) == found
