"""Formulas made up by swapping the elements of known crystals, to practise obeying the prompt.

Needs: numpy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from hullseeker.structures import reduced_formula


def with_swapped_elements(row: Mapping, elements: Sequence[int], rng: np.random.Generator) -> dict:
    """Return the crystal with each of its elements replaced by another of `elements`, drawn without replacement."""
    own = list(dict.fromkeys(row["atomic_numbers"]))
    new = dict(zip(own, rng.choice(elements, size=len(own), replace=False).tolist(), strict=True))
    numbers = [new[z] for z in row["atomic_numbers"]]
    return {**row, "atomic_numbers": numbers, "formula": reduced_formula(numbers)}


def formula_drill(
    rows: Sequence[Mapping], share: float, rng: np.random.Generator, forbidden: Collection[str] = ()
) -> list[dict]:
    """Return round(share x rows) training crystals with elements swapped at random; none of a forbidden formula.

    SFT learns them without their geometry, GRPO asks for their formulas. Finetuning on few crystals makes the model
    guess elements from the lattice it has just written; where lattice and elements have nothing to do with each other,
    only the prompt helps.
    """
    elements = sorted({z for row in rows for z in row["atomic_numbers"]})
    chosen = rng.integers(len(rows), size=round(share * len(rows)))
    drill = [with_swapped_elements(rows[i], elements, rng) for i in chosen]
    return [row for row in drill if row["formula"] not in forbidden]
