"""What the reward audit compares with: the elements' phases, and the data set's lowest crystal of each formula.

Needs: numpy, pymatgen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pymatgen.core import Composition

ENERGIES_BEST_FIRST = ("energy_ev_per_atom", "corrected_energy_ev_per_atom", "uncorrected_energy_ev_per_atom")


def elemental_phases(phases: Sequence[Mapping], elements: set[int]) -> list[Mapping]:
    """Return the phases of one element only, of the sampled elements (atomic numbers)."""
    return [row for row in phases if len(own := set(row["atomic_numbers"])) == 1 and own <= elements]


def known_crystals(materials: Sequence[Mapping], formulas: set[str]) -> list[Mapping]:
    """Return the data set's lowest structure of each sampled formula.

    Lowest by the evaluator's energy, by the database's where that is unknown; all of a formula where neither is known.
    """
    by_formula: dict[str, list[Mapping]] = {}
    for row in sorted(materials, key=lambda row: row["structure_id"]):
        if row["formula"] in formulas:
            by_formula.setdefault(row["formula"], []).append(row)
    return [row for rows in by_formula.values() for row in lowest_known(rows)]


def lowest_known(rows: Sequence[Mapping]) -> list[Mapping]:
    """Return the row of least energy by the first kind of energy that all rows have, all rows where there is none."""
    for name in ENERGIES_BEST_FIRST:
        energies = [row[name] for row in rows if row.get(name) is not None]
        if len(energies) == len(rows):
            return [rows[int(np.argmin(energies))]]
    return list(rows)


def reference_rows(kind: str, rows: Sequence[Mapping], energies: Sequence[float | str]) -> list[dict]:
    """Return one row per formula: the lowest energy (eV/atom), or the first error where no structure has one."""
    found: dict[str, dict] = {}
    for row, energy in zip(rows, energies, strict=True):
        about = {"kind": kind, "formula": row["formula"], "status": "energy_failed", "error": energy}
        if not isinstance(energy, str):
            about |= {"status": "ok", "error": None, "energy_ev_per_atom": energy}
        before = found.setdefault(row["formula"], about)
        if before["status"] != "ok" or about.get("energy_ev_per_atom", 0.0) < before["energy_ev_per_atom"]:
            found[row["formula"]] = about if about["status"] == "ok" else before
    return list(found.values())


def references_of(rows: Sequence[Mapping]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the potential's energies (eV/atom) by element, and of the data set's lowest structure by formula."""
    known = [row for row in rows if row["status"] == "ok"]
    elemental = {
        element: row["energy_ev_per_atom"]
        for row in known
        if row["kind"] == "elemental"
        for element in Composition(row["formula"]).as_dict()
    }
    return elemental, {row["formula"]: row["energy_ev_per_atom"] for row in known if row["kind"] == "known"}
