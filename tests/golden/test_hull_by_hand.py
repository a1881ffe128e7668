"""The hull against values worked out by hand and against pymatgen's PhaseDiagram."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition
from scipy.optimize import linprog

from hullseeker.metrics.hull import Hull, NoReference, cheapest_mixture, composition_of
from hullseeker.metrics.hull_rows import check_same_scale, hull_of_phases, hull_row

BINARY = [
    ({"Na": 1}, -1.0),
    ({"Na": 1}, -0.4),
    ({"Cl": 1}, -2.0),
    ({"Na": 1, "Cl": 1}, -3.0),
    ({"Na": 3, "Cl": 1}, -1.5),
]


def test_binary_by_hand():
    hull = Hull(*zip(*BINARY, strict=True))
    # Na3Cl: half its atoms in NaCl (-3), half in Na (-1): -2. Its own -1.5 lies 0.5 above.
    point = hull.point({"Na": 3, "Cl": 1})
    assert point.energy_ev_per_atom == pytest.approx(-2.0, abs=1e-9)
    assert point.decomposition == "0.500 Na + 0.500 NaCl"
    assert hull.e_above_hull({"Na": 3, "Cl": 1}, -1.5) == pytest.approx(0.5, abs=1e-9)
    assert hull.e_above_hull({"Na": 0.75, "Cl": 0.25}, -2.25) == pytest.approx(-0.25, abs=1e-9)
    # Formation of NaCl: -3 - (-1 - 2) / 2 = -1.5.
    assert hull.formation_energy({"Na": 1, "Cl": 1}, -3.0) == pytest.approx(-1.5)
    assert hull.e_above_hull({"Na": 2}, -0.4) == pytest.approx(0.6)


def test_ternary_by_hand():
    phases = [
        ({"Li": 1}, -2.0),
        ({"O": 1}, -5.0),
        ({"Fe": 1}, -8.0),
        ({"Li": 2, "O": 1}, -5.0),
        ({"Fe": 1, "O": 1}, -7.5),
    ]
    hull = Hull(*zip(*phases, strict=True))
    # LiFeO, 1/3 each. Formation: Li2O -5 - (-3) = -2, FeO -7.5 - (-6.5) = -1. On the tie line Li2O-Fe the oxygen is
    # used up by half the lithium: mixtures of Li2O (a), FeO (b), Li, Fe with a/3 + b/2 = 1/3 and 2a/3 <= 1/3:
    # a = 1/2, b = 1/3, Fe 1/6: formation -1 - 1/3 = -4/3 over elements -(2 + 5 + 8) / 3 = -5.
    point = hull.point({"Li": 1, "Fe": 1, "O": 1})
    assert point.energy_ev_per_atom == pytest.approx(-5 - 4 / 3, abs=1e-9)
    assert point.decomposition == "0.500 Li2O + 0.333 FeO + 0.167 Fe"


@pytest.mark.parametrize("seed", range(5))
def test_equals_phase_diagram(seed):
    rng = np.random.default_rng(seed)
    elements = ["Li", "Mg", "Fe", "O", "S"][: 2 + seed % 4]
    amounts = [{e: 1} for e in elements for _ in range(2)]
    amounts += [
        {e: int(n) for e, n in zip(elements, rng.integers(0, 5, len(elements)), strict=True)} for _ in range(60)
    ]
    amounts = [{e: n for e, n in a.items() if n} for a in amounts if sum(a.values())]
    energies = rng.normal(-4.0, 2.0, len(amounts))
    entries = [PDEntry(Composition(a), e * sum(a.values())) for a, e in zip(amounts, energies, strict=True)]
    diagram, hull = PhaseDiagram(entries), Hull(amounts, energies)
    for composition in amounts + [dict(zip(elements, rng.random(len(elements)), strict=True)) for _ in range(20)]:
        expected = diagram.get_hull_energy_per_atom(Composition(composition))
        assert hull.point(composition).energy_ev_per_atom == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 40), st.integers(0, 10**6))
def test_cheapest_mixture_equals_highs(m, n, seed):
    """Few distinct values, so that compositions and energies coincide and the programme is degenerate."""
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, 4, (m, n)).astype(float)
    columns = columns[:, columns.sum(axis=0) > 0]
    matrix = np.hstack([np.eye(m), columns / columns.sum(axis=0)])
    energies = np.concatenate([np.zeros(m), -rng.integers(0, 6, matrix.shape[1] - m) / 4])
    target = rng.integers(0, 4, m).astype(float)
    target[0] += 1
    target /= target.sum()
    shares, used = cheapest_mixture(matrix, energies, target)
    assert shares.min() > -1e-9
    assert matrix[:, used] @ shares == pytest.approx(target, abs=1e-9)
    expected = linprog(energies, A_eq=matrix, b_eq=target, bounds=(0, None), method="highs").fun
    assert shares @ energies[used] == pytest.approx(expected, abs=1e-9)


def test_structures_and_compositions_give_the_same_hull():
    numbers = [[11], [17, 17], [11, 17], [11, 11, 17], [8, 8], [8, 17, 17, 17]]
    energies = [-1.0, -2.0, -3.0, -1.9, -4.0, -2.6]
    one, other = Hull.of_structures(numbers, energies), Hull([composition_of(z) for z in numbers], energies)
    for composition in ({"Na": 3, "Cl": 1}, {"Na": 1, "O": 2, "Cl": 3}, {"Cl": 1}):
        assert one.point(composition) == other.point(composition)
    with pytest.raises(ValueError, match="phase NaCl is nan"):
        Hull.of_structures(numbers, [*energies[:2], float("nan"), *energies[3:]])
    with pytest.raises(ValueError, match="without atoms"):
        Hull.of_structures([[]], [0.0])
    with pytest.raises(NoReference):
        Hull.of_structures([], []).point({"Na": 1})


def test_a_system_of_many_elements():
    numbers = [[z] for z in range(1, 15)] + [[1, z] for z in range(2, 15)] + [list(range(1, 14))]
    energies = [0.0] * 14 + [-0.1 * z for z in range(2, 15)] + [-0.2]
    hull = Hull.of_structures(numbers, energies)
    target = composition_of(range(1, 13))
    columns = [[composition_of(z).get(e, 0.0) for e in target] for z in numbers if set(z) <= set(range(1, 13))]
    inside = [e for z, e in zip(numbers, energies, strict=True) if set(z) <= set(range(1, 13))]
    expected = linprog(inside, A_eq=np.array(columns).T, b_eq=list(target.values()), method="highs").fun
    assert hull.point(target).energy_ev_per_atom == pytest.approx(expected, abs=1e-9)


def test_order_of_entries_does_not_matter():
    forward, backward = (Hull(*zip(*phases, strict=True)) for phases in (BINARY, BINARY[::-1]))
    assert forward.point({"Na": 2, "Cl": 1}) == backward.point({"Na": 2, "Cl": 1})


def test_elements_without_reference():
    hull = Hull([{"Na": 1}, {"Na": 1, "Cl": 1}], [-1.0, -3.0])
    with pytest.raises(NoReference, match="Cl"):
        hull.point({"Na": 1, "Cl": 1})
    with pytest.raises(NoReference, match="no elemental phase of K"):
        hull.formation_energy({"K": 1}, 0.0)


def test_bad_entries_are_refused():
    with pytest.raises(ValueError, match="not a number"):
        Hull([{"Na": 1}], [float("nan")])
    with pytest.raises(ValueError, match="not a composition"):
        composition_of([])


def phase(structure_id, numbers, energy, source="sevennet:7net-0"):
    return {
        "structure_id": structure_id,
        "atomic_numbers": numbers,
        "energy_ev_per_atom": energy,
        "energy_source": source,
    }


def relaxed(status="ok", numbers=(11, 17), energy=-3.2, potential="sevennet:7net-0"):
    row = {
        "structure_id": "sft-000000",
        "status": status,
        "error": None if status == "ok" else "why",
        "potential": potential,
    }
    return (
        row
        | {"atomic_numbers": numbers, "energy_ev_per_atom": energy if status == "ok" else None}
        | {"initial_energy_ev_per_atom": energy + 0.5}
    )


PHASES = [phase("element-011", [11], -1.0), phase("element-017", [17, 17], -2.0), phase("m-1", [11, 17], -3.0)]


def test_rows():
    hull = hull_of_phases(PHASES)
    row = hull_row(hull, relaxed())
    assert row["e_above_hull_ev_per_atom"] == pytest.approx(-0.2)
    assert row["generated_e_above_hull_ev_per_atom"] == pytest.approx(0.3)
    assert row["formation_energy_ev_per_atom"] == pytest.approx(-1.7)
    assert row["decomposition"] == "1.000 NaCl"
    assert row["plain_e_above_hull_ev_per_atom"] is None
    settled = hull_row(hull, {**relaxed(), "plain_energy_ev_per_atom": -3.05})
    assert settled["plain_e_above_hull_ev_per_atom"] == pytest.approx(-0.05)
    assert settled["e_above_hull_ev_per_atom"] == pytest.approx(-0.2)
    assert hull_row(hull, relaxed(), "evaluator", -1.8)["status"] == "ok"
    hole = hull_row(hull, relaxed(), "evaluator", -1.6)
    assert hole["status"] == "energy_out_of_range"
    assert "the formation energy is -1.7 eV/atom" in hole["error"]
    assert "e_above_hull_ev_per_atom" not in hole
    for status in ("relax_failed", "not_converged", "not_attempted"):
        assert hull_row(hull, relaxed(status)) == {"structure_id": "sft-000000", "status": status, "error": "why"}
    row = hull_row(hull, relaxed(numbers=(11, 19)))
    assert row["status"] == "no_reference" and "K" in row["error"] and "energy_ev_per_atom" not in row


def test_a_hull_of_elements_alone_is_told_from_one_with_compounds():
    """NaBr does not beat its elements and so is no corner of the hull, but it is a compound that was tried."""
    hull = Hull.of_structures([[11], [17], [35], [19], [11, 35]], [-1.0, -2.0, -1.5, -1.0, 9.0])
    assert not hull.has_compound({"Na": 1, "Cl": 1})
    assert hull.has_compound({"Na": 2, "Br": 3})
    assert hull.has_compound({"Na": 1, "Cl": 1, "Br": 1}) and not hull.has_compound({"K": 1, "Cl": 1, "Br": 1})
    assert not hull.has_compound({"Na": 1})
    assert not Hull([], []).has_compound({"Na": 1, "Cl": 1})
    many = Hull.of_structures([[z] for z in range(1, 90)] + [[70, 71]], [0.0] * 90)
    wide = composition_of(range(60, 72))
    assert many.has_compound(wide) and not many.has_compound(composition_of(range(1, 13)))


def test_an_e_hull_that_cannot_be_relied_on_is_marked():
    """As BaZrO3 on a hull of elements: its E_hull is its formation energy."""
    alone = hull_row(hull_of_phases(PHASES[:2]), relaxed(), "evaluator", -5.0, -0.35)
    assert (alone["status"], alone["unreliable"]) == ("ok", "no_competing_compound")
    assert alone["e_above_hull_ev_per_atom"] == alone["formation_energy_ev_per_atom"] == pytest.approx(-1.7)
    hull = hull_of_phases(PHASES)
    assert hull_row(hull, relaxed(), "evaluator", -5.0, -0.35)["unreliable"] is None  # 0.2 below NaCl
    deep = relaxed(energy=-3.4)
    assert hull_row(hull, deep, "evaluator", -5.0, -0.35)["unreliable"] == "below_trusted_range"
    assert hull_row(hull, deep, "evaluator", -5.0, None)["unreliable"] is None
    element = relaxed(numbers=(11,), energy=-1.2)
    assert hull_row(hull, element, "evaluator", -5.0, -0.35)["unreliable"] is None
    assert "unreliable" not in hull_row(hull, relaxed("not_converged"), "evaluator", -5.0, -0.35)


def test_energies_of_another_potential_are_refused():
    with pytest.raises(ValueError, match=r"mp_dft.*sevennet:7net-0"):
        check_same_scale([phase("m-1", [11], -1.0, "mp_dft")], [relaxed()])
    with pytest.raises(ValueError, match="1 of 4 competing phases have no energy_ev_per_atom .m-2"):
        hull_of_phases([*PHASES, phase("m-2", [11], None)])
    check_same_scale(PHASES, [relaxed()])
    on_mp = [{**row, "energy_source": "mp_corrected"} for row in PHASES]
    check_same_scale(on_mp, [relaxed()], "mp")
    for phases, reference in ((on_mp, "evaluator"), (PHASES, "mp")):
        with pytest.raises(ValueError, match=f"does not fit hull.reference: {reference}"):
            check_same_scale(phases, [relaxed()], reference)
