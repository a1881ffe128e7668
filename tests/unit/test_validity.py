"""Validity against distances known by hand."""

import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase.data import covalent_radii
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Element, Lattice, Structure
from smact.screening import smact_validity

from hullseeker.metrics.validity import composition_valid, structure_valid_cdvae, structure_valid_paper
from hullseeker.tables.structures import from_structure

ROOT = Path(__file__).parents[2]


def row(lattice, species, coords):
    return from_structure(Structure(lattice, species, coords))


def cscl(a_ang):
    return row(Lattice.cubic(a_ang), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def copper_atom(a_ang):
    return row(Lattice.cubic(a_ang), ["Cu"], [[0, 0, 0]])


def test_real_crystals_are_valid_by_both():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for crystal in (from_structure(salt), from_structure(salt.get_primitive_structure()), cscl(4.12)):
        assert structure_valid_paper(crystal) is True
        assert structure_valid_cdvae(crystal) is True


def test_paper_limit_is_half_the_sum_of_the_radii():
    # Cordero: Cs 2.44, Cl 1.02, so Cs-Cl must exceed 1.73 Å; it is a √3/2, and a > 2.44 is the stricter, Cs-Cs, one.
    assert covalent_radii[[55, 17]] == pytest.approx([2.44, 1.02])
    assert structure_valid_paper(cscl(2.45))
    assert not structure_valid_paper(cscl(2.43))
    shifted = row(Lattice.cubic(8), ["Cs", "Cl"], [[0, 0, 0], [0, 0, 1.74 / 8]])
    closer = row(Lattice.cubic(8), ["Cs", "Cl"], [[0, 0, 0], [0, 0, 1.72 / 8]])
    assert structure_valid_paper(shifted)
    assert not structure_valid_paper(closer)


def test_paper_counts_pairs_across_the_cell_boundary():
    across = row(Lattice.cubic(8), ["Cs", "Cl"], [[0, 0, 0.95], [0, 0, 0.05]])
    assert not structure_valid_paper(across)  # 0.8 Å through the wall
    assert structure_valid_cdvae(across)
    assert not structure_valid_cdvae(row(Lattice.cubic(8), ["Cs", "Cl"], [[0, 0, 0.97], [0, 0, 0.03]]))  # 0.48 Å


def test_self_images_count_for_the_paper_only():
    assert structure_valid_paper(copper_atom(1.33))
    assert not structure_valid_paper(copper_atom(1.31))  # Cordero: Cu 1.32
    assert structure_valid_cdvae(copper_atom(0.47))


def test_the_shortest_self_image_of_a_skewed_cell_is_not_an_edge():
    # edges 10 and about 10 Å, but b − a is 1.2 Å long
    skewed = row(Lattice([[10, 0, 0], [10, 1.2, 0], [0, 0, 5]]), ["Cu"], [[0, 0, 0]])
    assert not structure_valid_paper(skewed)
    assert structure_valid_paper(row(Lattice([[10, 0, 0], [10, 1.4, 0], [0, 0, 5]]), ["Cu"], [[0, 0, 0]]))


def test_agrees_with_pymatgen_neighbours_on_random_cells():
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(60):
        lattice = Lattice.from_parameters(*rng.uniform(2, 6, 3), *rng.uniform(50, 110, 3))
        numbers = rng.choice([3, 8, 14, 26], 3)
        crystal = Structure(lattice, numbers.tolist(), rng.random((3, 3)))
        one, other, _, distances_ang = crystal.get_neighbor_list(4.0, exclude_self=True)
        limits_ang = (covalent_radii[numbers[one]] + covalent_radii[numbers[other]]) / 2
        verdicts.append(bool((distances_ang > limits_ang).all()))
        assert structure_valid_paper(from_structure(crystal)) is verdicts[-1]
    assert 5 < sum(verdicts) < 55


def test_volume_below_a_tenth_of_a_cubic_angstrom_is_invalid():
    assert structure_valid_cdvae(copper_atom(0.1001 ** (1 / 3)))
    assert not structure_valid_cdvae(copper_atom(0.0999 ** (1 / 3)))


@pytest.mark.parametrize("judge", [structure_valid_paper, structure_valid_cdvae])
def test_what_is_no_crystal_is_invalid(judge):
    good = cscl(4.12)
    assert judge(good)
    assert not judge(good | {"lattice_ang": [1.0, 0, 0, 2, 0, 0, 0, 0, 1]})
    assert not judge(good | {"lattice_ang": [float("nan")] * 9})
    assert not judge(good | {"frac_coords": [float("inf")] * 6})
    assert not judge({"lattice_ang": good["lattice_ang"], "atomic_numbers": [], "frac_coords": []})


@pytest.mark.parametrize(
    ("atomic_numbers", "valid"),
    [
        ([11, 17], True),  # Na+ Cl-
        ([11, 17, 11, 17], True),
        ([11, 8, 8], False),  # NaO2: peroxide and superoxide states are not in the set
        ([8, 8, 22], True),  # TiO2
        ([29], True),  # an element
        ([8, 8], True),
        ([29, 30, 30], True),  # an alloy
        ([17, 8, 8, 8, 8], True),  # Cl 7+ before O 2-: neutral, Cl less electronegative
        ([2, 11], False),  # helium has no oxidation state
        ([11, 118], False),  # smact does not know oganesson
        ([], False),
    ],
)
def test_composition(atomic_numbers, valid):
    assert composition_valid(atomic_numbers) is valid


def test_neutral_against_electronegativity_is_invalid():
    # Na 1- with Cl 2+ is neutral, but chlorine is the more electronegative one
    assert smact_validity("Na2Cl", use_pauling_test=False, oxidation_states_set="smact14")
    assert not composition_valid([11, 11, 17])


def test_the_oxidation_states_are_the_set_of_2014():
    # smact's default set knows Bi 4+ (or a mixture) and not Hg 4+; the set of 2014 has it the other way round
    assert [smact_validity("BiO2"), smact_validity("HgF4")] == [True, False]
    assert [composition_valid([83, 8, 8]), composition_valid([80, 9, 9, 9, 9])] == [False, True]


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.integers(1, 103), st.integers(1, 12), min_size=1, max_size=5))
def test_composition_validity_is_smacts(counts):
    composition = Composition({Element.from_Z(z): n for z, n in counts.items()})
    expected = smact_validity(composition, oxidation_states_set="smact14")
    assert composition_valid([z for z, n in counts.items() for _ in range(n)]) is expected


def test_composition_validity_of_real_formulas_is_smacts():
    formulas = set(
        pq.read_table(ROOT / "resources" / "demo_materials.parquet", columns=["formula"])["formula"].to_pylist()
    )
    verdicts = []
    for formula in sorted(formulas)[::5]:
        composition = Composition(formula)
        numbers = [e.Z for e, n in composition.items() for _ in range(round(n))]
        verdicts.append(composition_valid(numbers))
        assert verdicts[-1] is smact_validity(composition, oxidation_states_set="smact14"), formula
    assert 200 < sum(verdicts) < len(verdicts)


def test_many_elements_take_no_time():
    # 40 elements have 1e24 combinations of states
    started = time.perf_counter()
    composition_valid(list(range(3, 43)))
    assert not composition_valid([z for z in range(3, 60) if z not in (7, 8, 9, 16, 17, 34, 35, 53)] + [1] * 3)
    assert time.perf_counter() - started < 10
