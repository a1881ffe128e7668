"""Formulas and prompts for crystals.

Needs: pymatgen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hullseeker.language_model.crystal_text import make_prompt
from hullseeker.tables.structures import to_structure


def formula_for_prompt(row: Mapping, style: str) -> str:
    """Return the formula for the prompt: reduced (NaCl) if `style` is reduced, else of the whole cell (Na4Cl4)."""
    return row["formula"] if style == "reduced" else to_structure(row).composition.formula.replace(" ", "")


def prompts_of(rows: Iterable[Mapping], template: str, style: str) -> list[tuple[str, str]]:
    """Return (reduced formula, prompt) for each distinct prompt, sorted by prompt."""
    pairs = {make_prompt(template, formula_for_prompt(row, style)): row["formula"] for row in rows}
    return [(formula, prompt) for prompt, formula in sorted(pairs.items())]
