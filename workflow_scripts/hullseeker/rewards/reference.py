"""Hull energies of the training formulas by a reward potential, from training crystals and elements only.

Needs: numpy, scipy, pymatgen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hullseeker.data.selection import rows_in_use
from hullseeker.metrics.hull import Hull, NoReference, composition_of


def phases_of_training(materials: Sequence[Mapping], elements: Sequence[Mapping]) -> list[Mapping]:
    """Return training crystals, including those left out, and their elemental phases; no validation or test data."""
    training = [row for row in materials if row["split"] == "train"]
    needed = {z for row in training for z in row["atomic_numbers"]}
    return training + [row for row in elements if needed.issuperset(row["atomic_numbers"])]


def reference_rows(rows: Sequence[Mapping], energies: Sequence[float | str], potential: str) -> list[dict]:
    """Return one row per formula of the rows in use with a split: its hull energy (eV/atom) or an error."""
    evaluated = [(row, energy) for row, energy in zip(rows, energies, strict=True) if isinstance(energy, float)]
    hull = Hull.of_structures([row["atomic_numbers"] for row, _ in evaluated], [energy for _, energy in evaluated])
    numbers = {row["formula"]: row["atomic_numbers"] for row in rows_in_use(rows) if row.get("split")}
    lowest: dict[str, float] = {}
    for row, energy in evaluated:
        lowest[row["formula"]] = min(energy, lowest.get(row["formula"], energy))
    reference = []
    for formula, atomic_numbers in sorted(numbers.items()):
        row = {"formula": formula, "potential": potential, "lowest_energy_ev_per_atom": lowest.get(formula)}
        try:
            point = hull.point(composition_of(atomic_numbers))
        except NoReference as error:
            reference.append({**row, "status": "no_reference", "error": str(error)})
            continue
        row |= {"hull_energy_ev_per_atom": point.energy_ev_per_atom, "decomposition": point.decomposition}
        reference.append({**row, "status": "ok", "error": None})
    return reference
