"""Parsing of CIF text: crystals with hand-counted atoms, and rejections with their reason."""

import re
from collections import Counter

import gemmi
import numpy as np
import pytest
from ase.data import chemical_symbols
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from hullseeker.data.cif_files import CifError, read_cif, settings_of
from hullseeker.data.prototypes import load_prototypes
from hullseeker.metrics.matching import IDENTITY_MATCHER
from hullseeker.tables.structures import to_structure

CUBIC = (5.43, 5.43, 5.43, 90, 90, 90)
RHOMBOHEDRAL = (4.75, 4.75, 4.75, 57.2, 57.2, 57.2)
SALT_CELL = (5.64, 5.64, 5.64, 90, 90, 90)
HEXAGONAL = (3.25, 3.25, 5.2, 90, 90, 120)
P1 = ("x, y, z",)
SILICON = ["Si1 Si 0.125 0.125 0.125"]
BISMUTH = ["Bi1 Bi 0.237 0.237 0.237"]
SALT = ["Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5"]
BARE = ("label", "fract_x", "fract_y", "fract_z")
WITH_TYPE = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")


def cif(sites, cell=(4, 4, 4, 90, 90, 90), columns=WITH_TYPE, operations=(), block="x", **tags):
    """Return a CIF with atom site lines and further tags, in whose names `__` stands for a hyphen."""
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"data_{block}", *(f"_cell_{name} {x}" for name, x in zip(names, cell, strict=True))]
    lines += [f"_{tag.replace('__', '-')} '{value}'" for tag, value in tags.items()]
    if operations:
        lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{operation}'" for operation in operations)]
    extra = max(len(site.split()) for site in sites) - len(columns)
    columns = (*columns, *("occupancy", "attached_hydrogens")[:extra])
    lines += ["loop_", *(f"_atom_site_{column}" for column in columns), *sites]
    return "\n".join(lines) + "\n"


def only_outcome(text):
    """Return the numbers of atoms by element of the only crystal of a CIF, or the reason of its rejection."""
    try:
        ((_, outcome),) = read_cif(text)
    except CifError as error:
        return str(error)
    if isinstance(outcome, str):
        return outcome
    return dict(Counter(chemical_symbols[z] for z in outcome["atomic_numbers"]))


NAME, NUMBER, HALL = "symmetry_space_group_name_H__M", "symmetry_Int_Tables_number", "symmetry_space_group_name_Hall"
FORMULA, Z = "chemical_formula_sum", "cell_formula_units_Z"


@pytest.mark.parametrize(
    ("text", "atoms"),
    [
        # Setting in the name, or Hall symbol.
        (cif(SILICON, CUBIC, **{NAME: "F d -3 m :2", FORMULA: "Si"}), {"Si": 8}),
        (cif(SILICON, CUBIC, **{NAME: "F d -3 m Z", NUMBER: 227}), {"Si": 8}),
        (cif(SILICON, CUBIC, **{NAME: "Fd-3m:1"}), {"Si": 16}),
        (cif(["Si1 Si 0 0 0"], CUBIC, **{NAME: "F d -3 m S"}), {"Si": 8}),
        (cif(["Si1 Si 0 0 0"], CUBIC, **{HALL: "F 4d 2 3 -1d", NAME: "F d -3 m :1", Z: 8, FORMULA: "Si"}), {"Si": 8}),
        # Formula decides the origin that the name leaves open.
        (cif(SILICON, CUBIC, **{NAME: "F d -3 m", FORMULA: "Si", Z: 8}), {"Si": 8}),
        (cif(SILICON, CUBIC, **{NUMBER: 227, FORMULA: "Si8", Z: 8}), {"Si": 8}),
        # Cell decides the axes.
        (cif(BISMUTH, RHOMBOHEDRAL, **{NAME: "R -3 m :R"}), {"Bi": 2}),
        (cif(BISMUTH, RHOMBOHEDRAL, **{NAME: "R -3 m R", NUMBER: 166}), {"Bi": 2}),
        (cif(BISMUTH, RHOMBOHEDRAL, **{NAME: "R -3 m"}), {"Bi": 2}),
        (cif(["Bi1 Bi 0 0 0.237"], (4.55, 4.55, 11.86, 90, 90, 120), **{NAME: "R -3 m H"}), {"Bi": 6}),
        (cif(["Bi1 Bi 0 0 0.237"], (4.55, 4.55, 11.86, 90, 90, 120), **{NUMBER: 166}), {"Bi": 6}),
        # Spellings of space group names.
        (cif(["Ti1 Ti 0 0 0"], (3, 3, 5, 90, 90, 120), **{NAME: "P6_3/mmc"}), {"Ti": 2}),
        (cif(["Po1 Po 0 0 0"], **{NAME: "P M 3 M"}), {"Po": 1}),
        (cif(["Fe1 Fe 0.1 0.2 0.3"], (4, 5, 6, 90, 95, 90), **{NAME: "P 21/c"}), {"Fe": 4}),
        # Rounded coordinates of a special position.
        *(
            (cif([f"Zn1 Zn {a} {b} 0", f"O1 O {a} {b} 0.382"], HEXAGONAL, **{NAME: "P 63 m c"}), {"Zn": 2, "O": 2})
            for a, b in ((0.33, 0.67), (0.333, 0.667), (0.3333, 0.6667), (0.33333333, 0.66666667), ("0.333(2)", 0.667))
        ),
        # Element symbols.
        (cif(["HO1 0.1 0 0", "O1 0 0 0", "H2 0.9 0.2 0"], columns=BARE, **{FORMULA: "H2 O1"}), {"H": 2, "O": 1}),
        (cif(["Ho1 0 0 0"], columns=BARE), {"Ho": 1}),
        (cif(["NA1 0 0 0", "CL1 .5 .5 .5"], columns=BARE, **{FORMULA: "Na Cl"}), {"Na": 1, "Cl": 1}),
        (cif(["na1 0 0 0", "cl1 .5 .5 .5"], columns=BARE), {"Na": 1, "Cl": 1}),
        (cif(["ZN1 0 0 0", "O1A .5 .5 .5"], columns=BARE), {"Zn": 1, "O": 1}),
        (cif(["A Zn2+ 0 0 0", "B S-2 .5 .5 .5", "C D .2 .2 .2", "E T .7 .7 .7"]), {"Zn": 1, "S": 1, "H": 2}),
        # Occupancy.
        (cif(["Na1 Na 0 0 0 ?", "Cl1 Cl .5 .5 .5 ."]), {"Na": 1, "Cl": 1}),
        (cif(["Na1 Na 0 0 0 1.000(0)", "Cl1 Cl .5 .5 .5 0"]), {"Na": 1}),
        # Listed operations that contradict the name: decided by the formula, or by a list of all atoms.
        (cif(SALT, SALT_CELL, operations=P1, **{NAME: "F m -3 m", FORMULA: "Na4 Cl4"}), {"Na": 4, "Cl": 4}),
        (cif(SALT, operations=P1, **{NAME: "P m -3 m"}), {"Na": 1, "Cl": 1}),
        (cif(SALT, operations=P1, **{FORMULA: "Na Cl", Z: 1}), {"Na": 1, "Cl": 1}),
        # Formula of the whole cell next to Z, as some programs write it.
        (cif(SALT, SALT_CELL, **{NAME: "F m -3 m", FORMULA: "Na4 Cl4", Z: 4}), {"Na": 4, "Cl": 4}),
        (cif(SALT), {"Na": 1, "Cl": 1}),
        (cif(SALT, **{FORMULA: "Na0 Cl0"}), {"Na": 1, "Cl": 1}),
        ("\ufeff" + cif(SALT), {"Na": 1, "Cl": 1}),
        (cif(SALT).replace("\n", "\r\n"), {"Na": 1, "Cl": 1}),
        (cif(SALT).replace("\n", "\r"), {"Na": 1, "Cl": 1}),
        ("data_global\n_journal_name 'J'\n" + cif(SALT), {"Na": 1, "Cl": 1}),
        (cif(["O1 O 0 0 0 1 2", "H1 H .2 0 0 1 0", "H2 H 0 .2 0 1 0"], **{FORMULA: "H2 O"}), {"O": 1, "H": 2}),
        (cif(["Fe1 Fe 0 0 0"], operations=["x,y,z,+1", "x+1/2,y+1/2,z+1/2,-1"]), {"Fe": 2}),
    ],
)  # fmt: skip
def test_read_as_the_file_says(text, atoms):
    assert only_outcome(text) == atoms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cif(SILICON, CUBIC, **{NAME: "F d -3 m"}), r"16 atoms \('F d -3 m:1'\) or 8 atoms \('F d -3 m:2'\)"),
        (cif(SILICON, CUBIC, **{NAME: "F d -3 q"}), "'F d -3 q' is not known"),
        (cif(SILICON, CUBIC, **{NAME: "P n m a :2"}), "'P n m a :2' is not known"),
        (cif(SILICON, CUBIC, **{HALL: "nonsense"}), "Hall symbol 'nonsense' cannot be read"),
        (cif(SILICON, CUBIC, **{HALL: "F 4d 2 3 -1d", NAME: "P m -3 m"}), "of the group 'F d -3 m:1', the name is"),
        (cif(SILICON, CUBIC, **{NAME: "F d -3 m :2", NUMBER: 225}), "number 227, and its number is given as 225"),
        (cif(SILICON, CUBIC, **{NUMBER: 231}), "it must be 1 to 230"),
        (cif(BISMUTH, RHOMBOHEDRAL, **{NAME: "R -3 m :H"}), "do not fit the cell"),
        (cif(SALT, (4, 4.5, 4, 90, 90, 90), **{NAME: "P m -3 m"}), "do not fit the cell"),
        (cif(["Zn1 Zn 0.30 0.67 0"], HEXAGONAL, **{NAME: "P 63 m c"}), r"two copies of site Zn1 0\.\d+ Å apart"),
        (cif(["Na1 Na 0 0 0", "Wat1 Wat .5 .5 .5"]), "Wat1 is of the type 'Wat', which is not an element"),
        (cif(["Na1 Na 0 0 0", "O1 O-H .5 .5 .5"]), "'O-H', which is not an element"),
        *((cif([f"Q1 {symbol} 0 0 0"]), "which is not an element") for symbol in ("Va", "Uuo", "X", "Vac", "M", "OH")),
        (cif(["? ? 0 0 0", "O1 O .5 .5 .5"]), "no type symbol, and its label names no element"),
        (cif(["Na1 0 0 0", "OH1 .5 .5 .5"], columns=BARE), "OH1 has no type symbol, and its label names no"),
        (cif(["Na1 0 0 0", "OH1 .5 .5 .5"], columns=BARE, **{FORMULA: "H Na O"}), "O1 Na1, and .* H1 O1 Na1"),
        (cif(["HO1 0 0 0"], columns=BARE), "can be Ho or H"),
        (cif(["Na1 Na 0 0 0 1 0", "O1 O .5 .5 .5 1 1"]), "O1 has 1 attached hydrogens without coordinates"),
        (cif(["Na1 Na 0 0 0 1 0", "O1 O .5 .5 .5 1 1"], **{FORMULA: "H Na O"}), "holds O1 Na1"),
        (cif(["Na1 Na 0 0 0", "H1 H ? ? ?"]), r"site H1 has the coordinates \?, \?, \?"),
        (cif(["O1 O .5 .5 .5", "H1 H .5 .5 .5"]), "O1 and H1 share a position .* occupancy would be 2"),
        (cif(["Na1 Na 0 0 0", "Na2 Na 1 0 0"]), "Na1 and Na2 share a position"),
        (cif(["Na1 Na 0 0 0 0.5"]), r"Na1 is partially occupied \(0.5\)"),
        (cif(["Na1 Na 0 0 0 0.9999"]), "partially occupied"),
        (cif(["Na1 Na 0 0 0 -1"]), "partially occupied"),
        (cif(["Na1 Na 0 0 0 0"]), "every occupancy is 0"),
        (cif(SALT, **{FORMULA: "Na Cl", Z: 4}), "holds Na1 Cl1, and _chemical_formula_sum is Na1 Cl1 with Z = 4"),
        (cif(SALT, **{FORMULA: "Na4 Cl4"}), "holds Na1 Cl1, and _chemical_formula_sum is Na4 Cl4"),
        (cif(SALT, SALT_CELL, operations=P1, **{NAME: "F m -3 m"}), "2 atoms .* or 8 atoms"),
        (cif(SALT, operations=["x,y,z", "y,z,x"]), "do not form a group"),
        (cif(SALT, operations=["x,y,z", "-x,q,z"]), "'-x,q,z' cannot be read"),
        (cif(SALT, (4, 4, 4, 120, 120, 120)), "no volume"),
        (cif(SALT, (4, 4, 4, 90, 20, 120)), "enclose no volume"),
        (cif(SALT, (4, 4, "?", 90, 90, 90)), r"_cell_length_c is \?, not a number"),
        (cif(SALT, (4, 4, -4, 90, 90, 90)), "must be positive"),
        (cif(SALT) + "_cell_length_a 5\n", "_cell_length_a occurs twice"),
        (cif(SALT) + "_cell_wave_vector_seq_id 1\n", "modulated"),
        (cif(SALT).replace("fract_x", "Cartn_x").replace("fract_y", "Cartn_y"), "no _atom_site_fract_x, _"),
        ("data_x\n_cell_length_a 4\n", "lists no atoms"),
        ("not a cif", "not valid CIF"),
        ("", "lists no atoms"),
        (cif(SALT).replace("Cl1 Cl 0.5 0.5 0.5", "Cl1 Cl 0.5 0.5"), "Wrong number of values"),
    ],
)  # fmt: skip
def test_refused_with_the_reason(text, message):
    found = only_outcome(text)
    assert isinstance(found, str) and re.search(message, found), found


def test_every_data_block_is_a_crystal_or_a_reason():
    text = cif(SALT, block="a") + "data_note\n_audit_creation_date 2020-01-01\n"
    text += cif(["K1 K 0 0 0", "Br1 Br .5 .5 .5"], block="b") + cif(["V1 Va 0 0 0"], block="c") + cif(SALT, block="a")
    found = read_cif(text)
    assert [name for name, _ in found] == ["a", "b", "c", "a"]
    assert [isinstance(outcome, dict) for _, outcome in found] == [True, True, False, True]
    assert found[1][1]["atomic_numbers"] == [19, 35]


def test_the_crystal_is_the_one_of_the_origin_that_is_named():
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    for name, site in (("F d -3 m :1", "0 0 0"), ("F d -3 m :2", "0.125 0.125 0.125")):
        ((_, outcome),) = read_cif(cif([f"Si1 Si {site}"], CUBIC, **{NAME: name}))
        assert IDENTITY_MATCHER.fit(to_structure(outcome), diamond)


@pytest.mark.parametrize(("label", "structure"), load_prototypes(12, (1, 2, 3))[::7])
def test_prototypes_come_back_from_symmetrised_files(label, structure):
    structure = structure.copy()
    structure.remove_oxidation_states()
    text = str(CifWriter(structure, symprec=0.01))
    # The same file without operations: the name, or the formula if the name is ambiguous, must suffice.
    named = re.sub(r"loop_\n _symmetry_equiv_pos_site_id\n _symmetry_equiv_pos_as_xyz\n(  .*\n)+", "", text)
    conventional = SpacegroupAnalyzer(structure, 0.01).get_conventional_standard_structure()
    for content in (text, named):
        ((_, outcome),) = read_cif(content)
        assert isinstance(outcome, dict), (label, outcome)
        assert len(outcome["atomic_numbers"]) in (len(structure), len(conventional))
        assert IDENTITY_MATCHER.fit(to_structure(outcome), structure)


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(1, 230),
    frac=st.tuples(*[st.floats(0.02, 0.98)] * 3),
    digits=st.integers(3, 8),
)
def test_a_general_position_has_as_many_images_as_the_group_has_operations(number, frac, digits):
    group = gemmi.find_spacegroup_by_number(number)
    a, b, c, alpha, beta, gamma = 7.0, 9.0, 11.0, 80.0, 95.0, 105.0
    cells = {
        "triclinic": (a, b, c, alpha, beta, gamma),
        "monoclinic": (a, b, c, 90, beta, 90),
        "orthorhombic": (a, b, c, 90, 90, 90),
        "tetragonal": (a, a, c, 90, 90, 90),
        "trigonal": (a, a, c, 90, 90, 120),
        "hexagonal": (a, a, c, 90, 90, 120),
        "cubic": (a, a, a, 90, 90, 90),
    }
    site = " ".join(f"{x:.{digits}f}" for x in frac)
    found = read_cif(cif([f"Fe1 Fe {site}"], cells[group.crystal_system_str()], **{NAME: group.xhm()}))[0][1]
    if isinstance(found, str):
        assert "too near for two" in found or "complete set of positions" in found
        return
    n = len(found["atomic_numbers"])
    order = len(list(group.operations()))
    assert order % n == 0
    coords = np.reshape(found["frac_coords"], (-1, 3))
    expected = Structure(Lattice.from_parameters(*cells[group.crystal_system_str()]), ["Fe"] * n, coords)
    if n > 1:
        distances = expected.distance_matrix[~np.eye(n, dtype=bool)]
        assert distances.min() >= 0.09


def test_settings_of_names():
    assert [group.xhm() for group in settings_of("F d -3 m")] == ["F d -3 m:1", "F d -3 m:2"]
    assert [group.xhm() for group in settings_of("R -3 m HR")] == ["R -3 m:H"]
    assert [group.xhm() for group in settings_of("P2_1/c")] == ["P 1 21/c 1"]
    assert settings_of("Q 1") == [] == settings_of("P n m a :2")
