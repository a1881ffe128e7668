"""Converts crystals to the paper's text format and back, and makes prompts.

Needs: numpy, pymatgen (elements only).

Format (paper, Supplementary): a line of three lattice lengths (Å), a line of three angles (degrees), then
each element symbol on a line of its own, followed by one line of fractional coordinates per atom.
The parser never raises: it returns a structure or an error message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from pymatgen.core import Element, Lattice

MAX_TEXT_CHARS = 20_000
_NUMBER = re.compile(r"[+-]?\d{1,9}(?:\.\d{0,12})?", re.ASCII)


@dataclass(frozen=True)
class TextFormat:
    """Decimals of the written numbers and bounds on accepted crystals; the config's `crystal_text` section."""

    length_decimals: int
    angle_decimals: int
    coordinate_decimals: int
    max_atoms: int
    min_length_ang: float
    max_length_ang: float
    min_angle_deg: float
    max_angle_deg: float
    min_volume_per_atom_ang3: float
    max_volume_per_atom_ang3: float


@dataclass(frozen=True)
class ParsedCrystal:
    """Result of parsing: the three structure columns, or an error message."""

    columns: Mapping | None
    error: str | None


def make_prompt(template: str, formula: str) -> str:
    """Return the prompt for a formula; ValueError if the template has no {formula}."""
    if "{formula}" not in template:
        raise ValueError("the prompt template must contain {formula}, where the chemical formula goes")
    return template.replace("{formula}", formula)


def write_crystal(row: Mapping, form: TextFormat) -> str:
    """Return the text of a structure row: elements in order of electronegativity, atoms in the row's order.

    Lengths and angles are rounded half away from zero, as in the paper's examples.
    """
    lattice = Lattice(np.reshape(row["lattice_ang"], (3, 3)))
    coordinates = np.reshape(row["frac_coords"], (-1, 3))
    lines = [
        " ".join(_fixed(x, form.length_decimals) for x in lattice.abc),
        " ".join(_fixed(x, form.angle_decimals) for x in lattice.angles),
    ]
    numbers = [int(z) for z in row["atomic_numbers"]]
    for z in sorted(
        set(numbers), key=lambda z: (Element.from_Z(z).X if not math.isnan(Element.from_Z(z).X) else 0.0, z)
    ):
        lines.append(Element.from_Z(z).symbol)
        lines += [
            " ".join(_fraction(x, form.coordinate_decimals) for x in coordinate)
            for coordinate, number in zip(coordinates, numbers, strict=True)
            if number == z
        ]
    return "\n".join(lines)


def _fixed(value: float, decimals: int) -> str:
    scale = 10**decimals
    # The small term corrects the binary representation: 5.25 may be stored as 5.2499999.
    return f"{math.floor(value * scale + 0.5 + 1e-9) / scale:.{decimals}f}"


def _fraction(value: float, decimals: int) -> str:
    scale = 10**decimals
    return f"{(math.floor((value % 1.0) * scale + 0.5 + 1e-9) % scale) / scale:.{decimals}f}"


@cache
def _atomic_number(symbol: str) -> int | None:
    return Element(symbol).Z if Element.is_valid_symbol(symbol) and symbol not in ("D", "T") else None


def parse_crystal(text: str, form: TextFormat) -> ParsedCrystal:
    """Return the structure that a text describes, or an error message; never raises."""
    if not isinstance(text, str):
        return _refuse(f"expected text, got {type(text).__name__}")
    if len(text) > MAX_TEXT_CHARS:
        return _refuse(f"{len(text)} characters, more than {MAX_TEXT_CHARS}")
    lines = [line.strip(" \t\r") for line in text.strip(" \t\r\n").split("\n")]
    if len(lines) < 4:
        return _refuse(f"{len(lines)} lines; a crystal needs lengths, angles, an element and a coordinate")
    lengths, angles = _three_numbers(lines[0]), _three_numbers(lines[1])
    if lengths is None:
        return _refuse(f"line 1 is not three lattice lengths: {_shown(lines[0])}")
    if angles is None:
        return _refuse(f"line 2 is not three lattice angles: {_shown(lines[1])}")
    if not all(form.min_length_ang <= x <= form.max_length_ang for x in lengths):
        return _refuse(f"a lattice length of {lengths} Å is outside {form.min_length_ang:g} to {form.max_length_ang:g}")
    if not all(form.min_angle_deg <= x <= form.max_angle_deg for x in angles):
        return _refuse(
            f"a lattice angle of {angles} degrees is outside {form.min_angle_deg:g} to {form.max_angle_deg:g}"
        )
    volume = _volume(lengths, angles)
    if volume is None:
        return _refuse(f"angles {angles} close no cell")
    atoms = _parse_atoms(lines[2:], form)
    if isinstance(atoms, str):
        return _refuse(atoms)
    numbers, coordinates = atoms
    per_atom = volume / len(numbers)
    if not form.min_volume_per_atom_ang3 <= per_atom <= form.max_volume_per_atom_ang3:
        bounds = f"{form.min_volume_per_atom_ang3:g} to {form.max_volume_per_atom_ang3:g}"
        return _refuse(f"{per_atom:.3g} Å^3 per atom is outside {bounds}")
    matrix = Lattice.from_parameters(*lengths, *angles).matrix
    columns = {
        "lattice_ang": [float(x) for x in matrix.ravel()],
        "atomic_numbers": numbers,
        "frac_coords": [x % 1.0 for x in coordinates],
    }
    return ParsedCrystal(columns, None)


def _parse_atoms(lines: list[str], form: TextFormat) -> tuple[list[int], list[float]] | str:
    """Return atomic numbers and flat coordinates of the lines below the lattice, or an error message."""
    numbers: list[int] = []
    coordinates: list[float] = []
    seen: set[int] = set()
    current_element, n_atoms_of_current = None, 0
    for i, line in enumerate(lines, start=3):
        coordinates_of_line = _three_numbers(line)
        if coordinates_of_line is not None:
            if current_element is None:
                return f"line {i} has coordinates before any element: {_shown(line)}"
            numbers.append(current_element)
            coordinates += coordinates_of_line
            n_atoms_of_current += 1
            if len(numbers) > form.max_atoms:
                return f"more than {form.max_atoms} atoms"
            continue
        z = _atomic_number(line) if len(line) <= 2 else None
        if z is None:
            return f"line {i} is neither an element nor three coordinates: {_shown(line)}"
        if z in seen:
            return f"line {i} names {line} again; each element may occur only once"
        if current_element is not None and n_atoms_of_current == 0:
            return f"line {i}: the element before {line} has no atoms"
        seen.add(z)
        current_element, n_atoms_of_current = z, 0
    if n_atoms_of_current == 0:
        return "the last element has no atoms"
    if not all(-1.0 <= x <= 2.0 for x in coordinates):
        return "a fractional coordinate is outside -1 to 2"
    return numbers, coordinates


def _refuse(error: str) -> ParsedCrystal:
    return ParsedCrystal(None, error)


def _three_numbers(line: str) -> tuple[float, float, float] | None:
    """Return the three decimal numbers of a line; None for anything else, such as nan, inf, 1e5, 0x1f or 1_000."""
    fields = line.split(" ") if len(line) <= 100 else []
    fields = [word for word in fields if word]
    if len(fields) != 3 or not all(_NUMBER.fullmatch(word) for word in fields):
        return None
    first, second, third = map(float, fields)
    return first, second, third


def _volume(lengths: tuple[float, ...], angles: tuple[float, ...]) -> float | None:
    """Return the cell volume (Å^3), or None if the three angles do not form a cell."""
    cosines = [math.cos(math.radians(x)) for x in angles]
    square = 1 - sum(c * c for c in cosines) + 2 * math.prod(cosines)
    return math.prod(lengths) * math.sqrt(square) if square > 1e-4 else None


def _shown(line: str) -> str:
    return repr(line[:40] + "…" if len(line) > 40 else line)
