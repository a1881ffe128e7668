"""Random crystal texts without chemistry, on which the embedded base model is trained.

Needs: numpy, pymatgen. The texts have the right format and the number of atoms per element of the formula; elements,
lengths, angles and coordinates are drawn independently.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
from pymatgen.core import Lattice

from hullseeker.language_model.crystal_text import TextFormat, write_crystal
from hullseeker.tables.structures import reduced_formula

MAX_ATOMS = 12


def draw_formless_crystal(rng: np.random.Generator, elements: list[int], small_counts: bool) -> dict:
    """Return a random structure row: 1 to 3 elements, 1 to 12 atoms, random cell and positions.

    Counts per element are uniform from 1 to 6; with `small_counts` small counts are more frequent, as in real crystals.
    """
    while True:
        n_elements = int(rng.choice([1, 2, 3], p=[0.1, 0.45, 0.45]))
        counts = np.minimum(rng.geometric(0.5, size=n_elements), 8) if small_counts else rng.integers(1, 7, n_elements)
        counts //= reduce(math.gcd, (int(c) for c in counts))
        largest = MAX_ATOMS // int(counts.sum())
        if largest >= 1:
            break
    multiple = min(int(rng.geometric(0.6)), largest) if small_counts else int(rng.integers(1, largest + 1))
    counts = counts * multiple
    numbers = np.repeat(rng.choice(elements, size=n_elements, replace=False), counts)
    angles = rng.integers(60, 121, size=3)
    if rng.random() < 0.5:
        angles[rng.random(3) < 0.7] = 90
    shape = rng.uniform(0.6, 1.6, size=3)
    volume = len(numbers) * math.exp(rng.uniform(math.log(8), math.log(40)))
    lengths = shape * (volume / shape.prod()) ** (1 / 3)
    cosines = np.cos(np.radians(angles))
    if 1 - (cosines**2).sum() + 2 * cosines.prod() < 0.05:
        return draw_formless_crystal(rng, elements, small_counts)
    return {
        "lattice_ang": list(Lattice.from_parameters(*lengths, *angles).matrix.ravel()),
        "atomic_numbers": [int(z) for z in numbers],
        "frac_coords": list(rng.random(3 * len(numbers))),
    }


def draw_pairs(
    n: int, rng: np.random.Generator, elements: list[int], form: TextFormat, small_counts: bool
) -> list[tuple[str, str]]:
    """Return n pairs of (reduced formula, crystal text)."""
    rows = (draw_formless_crystal(rng, elements, small_counts) for _ in range(n))
    return [(reduced_formula(row["atomic_numbers"]), write_crystal(row, form)) for row in rows]
