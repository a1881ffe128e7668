"""References of the reward audit: elemental phases, and the lowest-energy crystal of the data set for each formula.

Needs: numpy, pymatgen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pymatgen.core import Composition

ENERGIES_BEST_FIRST = ("energy_ev_per_atom", "corrected_energy_ev_per_atom", "uncorrected_energy_ev_per_atom")


def elemental_phases(phases: Sequence[Mapping], elements: set[int]) -> list[Mapping]:
    """Return the single-element phases of these elements (atomic numbers)."""
    return [
        row for row in phases if len(elements_of_row := set(row["atomic_numbers"])) == 1 and elements_of_row <= elements
    ]


def known_crystals(materials: Sequence[Mapping], formulas: set[str]) -> list[Mapping]:
    """Return the lowest-energy structure of the data set for each of these formulas.

    The evaluator's energy decides, or the database's if that is unknown. If both are unknown, all structures of the
    formula are returned.
    """
    by_formula: dict[str, list[Mapping]] = {}
    for row in sorted(materials, key=lambda row: row["structure_id"]):
        if row["formula"] in formulas:
            by_formula.setdefault(row["formula"], []).append(row)
    return [row for rows in by_formula.values() for row in lowest_known(rows)]


def lowest_known(rows: Sequence[Mapping]) -> list[Mapping]:
    """Return the lowest row by the first energy column that is known for all rows; all rows if there is none."""
    for name in ENERGIES_BEST_FIRST:
        energies = [row[name] for row in rows if row.get(name) is not None]
        if len(energies) == len(rows):
            return [rows[int(np.argmin(energies))]]
    return list(rows)


def reference_rows(kind: str, rows: Sequence[Mapping], energies: Sequence[float | str]) -> list[dict]:
    """Return one row per formula: the lowest energy (eV/atom), or the first error if no structure has an energy."""
    by_formula: dict[str, dict] = {}
    for row, energy in zip(rows, energies, strict=True):
        candidate = {"kind": kind, "formula": row["formula"], "status": "energy_failed", "error": energy}
        if not isinstance(energy, str):
            candidate |= {"status": "ok", "error": None, "energy_ev_per_atom": energy}
        best = by_formula.setdefault(row["formula"], candidate)
        if best["status"] != "ok" or candidate.get("energy_ev_per_atom", 0.0) < best["energy_ev_per_atom"]:
            by_formula[row["formula"]] = candidate if candidate["status"] == "ok" else best
    return list(by_formula.values())


def references_of(rows: Sequence[Mapping]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the potential's energies (eV/atom): of elemental phases by element, of lowest structures by formula."""
    evaluated = [row for row in rows if row["status"] == "ok"]
    elemental = {
        element: row["energy_ev_per_atom"]
        for row in evaluated
        if row["kind"] == "elemental"
        for element in Composition(row["formula"]).as_dict()
    }
    return elemental, {row["formula"]: row["energy_ev_per_atom"] for row in evaluated if row["kind"] == "known"}
