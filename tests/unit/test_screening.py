"""Prototypes that compete for a formula: every stoichiometry in its roles, and the lowest in energy are kept."""

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure

from hullseeker.tables.structures import reduced_formula
from screen_prototypes import decorations, lowest_in_energy, prototypes_by_stoichiometry, site_assignments


@pytest.fixture(scope="module")
def prototypes():
    return prototypes_by_stoichiometry(4)


def test_roles_that_are_the_same_crystal_come_once():
    caesium_chloride = Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert len(site_assignments(caesium_chloride)) == 1
    # Pb sits in pyramids, O in tetrahedra: PbO and OPb are two crystals.
    litharge = Structure(
        Lattice.tetragonal(3.98, 5.02),
        ["O", "O", "Pb", "Pb"],
        [[0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.237], [0.5, 0, 0.763]],
    )
    assert sorted(site_assignments(litharge)) == [("O", "Pb"), ("Pb", "O")]
    fluorite = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.46), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    assert site_assignments(fluorite) == [("Ca", "F")]


@pytest.mark.parametrize("formula", ["NaCl", "CaF2", "Na2O", "YCuO2"])
def test_every_decoration_has_the_formula(prototypes, formula):
    found = list(decorations(formula, prototypes))
    assert len(found) == len(prototypes[Composition(formula).anonymized_formula]) > 1
    for _, structure in found:
        assert reduced_formula([site.specie.Z for site in structure]) == formula
        assert structure.is_ordered
        assert 4 < structure.volume / len(structure) < 120


def test_the_minority_of_a_formula_takes_the_minority_site(prototypes):
    """Antifluorite: in Na2O oxygen sits where calcium sits in CaF2, with eight neighbours."""
    (antifluorite,) = (s for label, s in decorations("Na2O", prototypes) if label.endswith("_225_a_c:CaF2"))
    oxygen = next(i for i, site in enumerate(antifluorite) if site.specie.symbol == "O")
    distances = sorted(n.nn_distance for n in antifluorite.get_neighbors(antifluorite[oxygen], 6.0))
    assert distances[7] == pytest.approx(distances[0])
    assert distances[8] > 1.1 * distances[0]


def test_unknown_stoichiometries_have_no_decoration(prototypes):
    assert list(decorations("Na7Cl13", prototypes)) == []


def test_the_lowest_are_kept_and_what_has_no_energy_is_not():
    class Volumes:
        def energies(self, cells):
            return np.array([np.nan if len(c) == 1 else c.get_volume() / len(c) for c in cells])

    def cell(a, n):
        return Structure(Lattice.cubic(a), ["Na"] * n, np.linspace(0, 0.8, n)[:, None] * [1, 1, 1])

    decorated = [(f"{a}-{n}", cell(a, n)) for a in (5, 4, 6) for n in (2, 1)] * 9
    kept = lowest_in_energy(decorated, Volumes(), 12)
    assert [label for label, _, _ in kept] == ["4-2"] * 9 + ["5-2"] * 3
    assert [energy for _, _, energy in kept][::9] == pytest.approx([32.0, 62.5])
    assert lowest_in_energy([], Volumes(), 3) == []
