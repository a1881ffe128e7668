"""The crystal text codec: the paper's form, round trips, and a parser that never raises."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from configs import text_format
from hullseeker.language_model.crystal_text import make_prompt, parse_crystal, write_crystal
from hullseeker.tables.parquet import read_table
from hullseeker.tables.structures import from_structure, to_structure

ROOT = Path(__file__).parents[2]
PROMPT = (ROOT / "resources" / "prompt.txt").read_text()
SLOWEST_S = 0.05
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}

SPINEL_LIKE = """5.2 5.2 11.8
90 90 120
Mg
0.33 0.67 0.25
Al
0.00 0.00 0.00
0.31 0.69 0.38
0.69 0.31 0.62"""


def parse_quickly(text, form=None):
    """Parse, and fail where it takes long: the best of two, since another process may have had the core."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        parsed = parse_crystal(text, form or text_format())
        times.append(time.perf_counter() - start)
        if times[-1] < SLOWEST_S:
            break
    assert min(times) < SLOWEST_S, f"{min(times):.3f} s for {text[:80]!r}"
    assert (parsed.columns is None) != (parsed.error is None)
    return parsed


def test_the_papers_second_example():
    columns = parse_crystal(SPINEL_LIKE, text_format()).columns
    structure = to_structure(columns)
    assert structure.formula == "Mg1 Al3"
    assert structure.lattice.abc == pytest.approx((5.2, 5.2, 11.8))
    assert structure.lattice.angles == pytest.approx((90, 90, 120))
    np.testing.assert_allclose(structure.frac_coords[2], [0.31, 0.69, 0.38])
    assert write_crystal(columns, text_format()) == SPINEL_LIKE


def test_both_examples_of_the_prompt_parse():
    blocks = PROMPT.split("Example 1:")[1].split("Provide ONLY")[0].split("Example 2:")
    parsed = [parse_crystal(block, text_format()).columns for block in blocks]
    assert [to_structure(columns).formula for columns in parsed] == ["Li1 Fe6", "Mg1 Al3"]


def test_angles_are_rounded_and_not_truncated():
    structure = Structure(
        Lattice.from_parameters(4.05, 4.04, 4.06, 89.6, 90.4, 109.47), ["Cu"], [[0.999, 0.005, 0.0049]]
    )
    text = write_crystal(from_structure(structure), text_format())
    assert text.splitlines() == ["4.1 4.0 4.1", "90 90 109", "Cu", "0.00 0.01 0.00"]


def test_prompt_names_the_formula():
    assert "chemical formula NaCl. Generate" in make_prompt(PROMPT, "NaCl")
    with pytest.raises(ValueError, match="must contain"):
        make_prompt("no place for it", "NaCl")


@pytest.mark.parametrize("name", ["demo_materials", "demo_phases", "elemental_phases"])
def test_every_embedded_structure_survives_within_the_rounding(name):
    form = text_format(min_volume_per_atom_ang3=1.0)
    rows = read_table(ROOT / "resources" / f"{name}.parquet", "materials").to_pylist()
    assert rows
    for row in rows:
        before = to_structure(row)
        columns = parse_crystal(write_crystal(row, form), form).columns
        after = to_structure(columns)
        assert after.composition == before.composition
        np.testing.assert_allclose(after.lattice.abc, before.lattice.abc, atol=0.0501)
        np.testing.assert_allclose(after.lattice.angles, before.lattice.angles, atol=0.501)
        for element in before.composition:
            ours = after.frac_coords[[s.specie == element for s in after]]
            theirs = before.frac_coords[[s.specie == element for s in before]]
            difference = ours - theirs
            assert np.abs(difference - np.round(difference)).max() <= 0.00501


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lines"),
        ("5 5 5\n90 90 90\nNa", "lines"),
        ("5 5\n90 90 90\nNa\n0 0 0", "line 1"),
        ("5 5 5\n90 nan 90\nNa\n0 0 0", "line 2"),
        ("inf 5 5\n90 90 90\nNa\n0 0 0", "line 1"),
        ("1e5 5 5\n90 90 90\nNa\n0 0 0", "line 1"),
        ("5 5 5000\n90 90 90\nNa\n0 0 0", "lattice length"),
        ("5 5 -5\n90 90 90\nNa\n0 0 0", "lattice length"),
        ("5 5 5\n90 90 1\nNa\n0 0 0", "lattice angle"),
        ("5 5 5\n150 150 150\nNa\n0 0 0", "close no cell"),
        ("5 5 5\n90 90 90\n0 0 0\nNa", "before any element"),
        ("5 5 5\n90 90 90\nXx\n0 0 0", "neither an element"),
        ("5 5 5\n90 90 90\nNa+\n0 0 0", "neither an element"),
        ("5 5 5\n90 90 90\nNa\nCl\n0 0 0", "has no atoms"),
        ("5 5 5\n90 90 90\nNa\n0 0 0\nCl", "last element has no atoms"),
        ("5 5 5\n90 90 90\nNa\n0 0 0\nNa\n0.5 0 0", "again"),
        ("5 5 5\n90 90 90\nNa\n0 0 7", "coordinate"),
        ("1 1 1\n90 90 90\nNa\n0 0 0", "per atom"),
        ("50 50 50\n90 90 90\nNa\n0 0 0", "per atom"),
        ("50 50 50\n90 90 90\nNa\n" + "0 0 0\n" * 65, "more than 64 atoms"),
        ("9" * 30_000, "characters"),
        (None, "expected text"),
    ],
)
def test_refusals_say_why(text, reason):
    parsed = parse_crystal(text, text_format())
    assert parsed.columns is None
    assert reason in parsed.error


@settings(max_examples=3000, **QUIET)
@given(st.text(max_size=400))
def test_any_text_is_answered(text):
    parse_quickly(text)


_WORD = st.one_of(
    st.sampled_from(
        [
            "90",
            "5.2",
            "0.25",
            "-0.5",
            "nan",
            "inf",
            "1e309",
            "0x1f",
            "1_0",
            "٣",
            "Na",
            "Cl",
            "Xx",
            "",
            "9" * 400,
            "-",
            ".",
            "+5.",
        ]
    ),
    st.floats(allow_nan=True).map(str),
    st.integers(-500, 500).map(str),
)


@settings(max_examples=3000, **QUIET)
@given(st.lists(st.lists(_WORD, max_size=4).map(" ".join), max_size=12).map("\n".join))
def test_nearly_right_text_is_answered(text):
    parsed = parse_quickly(text)
    if parsed.columns is not None:
        structure = to_structure(parsed.columns)
        assert np.isfinite(structure.lattice.matrix).all()
        assert 2.0 <= structure.volume / len(structure) <= 500


@st.composite
def crystals(draw):
    n = draw(st.integers(1, 12))
    angles = draw(st.tuples(*[st.floats(70, 110)] * 3))
    side = draw(st.floats(3.0, 8.0)) * n ** (1 / 3)
    lattice = Lattice.from_parameters(side, side * draw(st.floats(0.8, 1.2)), side, *angles)
    numbers = draw(st.lists(st.integers(1, 103), min_size=n, max_size=n))
    coordinates = draw(st.lists(st.floats(-5, 5), min_size=3 * n, max_size=3 * n))
    return {"lattice_ang": list(lattice.matrix.ravel()), "atomic_numbers": numbers, "frac_coords": coordinates}


@settings(max_examples=2000, **QUIET)
@given(crystals(), st.integers(0, 4), st.integers(0, 3), st.integers(1, 6))
def test_what_is_written_is_read_and_written_again(row, length_decimals, angle_decimals, coordinate_decimals):
    form = text_format(
        length_decimals=length_decimals,
        angle_decimals=angle_decimals,
        coordinate_decimals=coordinate_decimals,
        min_volume_per_atom_ang3=0.5,
        max_volume_per_atom_ang3=2000,
    )
    text = write_crystal(row, form)
    parsed = parse_quickly(text, form)
    assert parsed.error is None, f"{parsed.error}\n{text}"
    assert sorted(parsed.columns["atomic_numbers"]) == sorted(row["atomic_numbers"])
    assert write_crystal(parsed.columns, form) == text
