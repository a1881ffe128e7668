"""The reward potential (CHGNet) beside the evaluator on every generated structure as it stands."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from compute_hull import check_same_scale, hull_of_phases
from hullseeker.energy_scales import comparable_energy
from hullseeker.hull import NoReference, composition_of, formation_energy
from hullseeker.logs import close_with_counts, logging_to, progress
from hullseeker.potentials import Potential, load_potential
from hullseeker.provenance import describe_run
from hullseeker.structures import has_structure, to_atoms
from hullseeker.tables import check_children, read_table, write_table

BLOCK_SIZE = 64
ENERGIES_BEST_FIRST = ("energy_ev_per_atom", "corrected_energy_ev_per_atom", "uncorrected_energy_ev_per_atom")


def energies_or_errors(potential: Potential, rows: Sequence[Mapping]) -> list[float | str]:
    """Return the energy (eV/atom) of each row's structure, or why there is none; one bad cell fails alone."""
    outcomes: list[float | str] = []
    for start in progress(range(0, len(rows), BLOCK_SIZE), potential.name):
        outcomes += energies_of_block(potential, rows[start : start + BLOCK_SIZE])
    return outcomes


def energies_of_block(potential: Potential, rows: Sequence[Mapping]) -> list[float | str]:
    """Return the energy (eV/atom) of each row, evaluated together where that works, or why there is none."""
    unknown = [sorted(set(row["atomic_numbers"]) - potential.covered_atomic_numbers) for row in rows]
    if len(rows) == 1 and unknown[0]:
        return [f"{potential.name} does not cover the elements with atomic numbers {unknown[0]}"]
    try:
        if any(unknown):
            raise ValueError("evaluated one by one, so that only the row with unknown elements fails")
        energies = potential.energies([to_atoms(row) for row in rows])
    except Exception as error:  # noqa: BLE001  a potential may raise anything on a hopeless geometry
        if len(rows) == 1:
            return [f"{potential.name}: {type(error).__name__}: {error}"]
        return [outcome for row in rows for outcome in energies_of_block(potential, [row])]
    return [float(e) if np.isfinite(e) else f"{potential.name} returned {e}" for e in energies]


def elemental_energies(potential: Potential, phases: Sequence[Mapping]) -> dict[str, float]:
    """Return the potential's lowest energy (eV/atom) per element among the phases of one element only."""
    elemental = [row for row in phases if len(set(row["atomic_numbers"])) == 1]
    lowest: dict[str, float] = {}
    for row, energy in zip(elemental, energies_or_errors(potential, elemental), strict=True):
        (symbol,) = composition_of(row["atomic_numbers"])
        if isinstance(energy, float):
            lowest[symbol] = min(energy, lowest.get(symbol, np.inf))
    return lowest


def reference_energies(potential: Potential, materials: Sequence[Mapping], formulas: set[str]) -> dict[str, float]:
    """Return per reduced formula the potential's energy (eV/atom) of the data set's lowest structure.

    Lowest by the evaluator's energy, by the database's where that is unknown, by the potential's own where neither is.
    """
    by_formula: dict[str, list[Mapping]] = defaultdict(list)
    for row in sorted(materials, key=lambda row: row["structure_id"]):
        if row["formula"] in formulas:
            by_formula[row["formula"]].append(row)
    chosen = [row for rows in by_formula.values() for row in lowest_known(rows)]
    best: dict[str, float] = {}
    for row, energy in zip(chosen, energies_or_errors(potential, chosen), strict=True):
        if isinstance(energy, float):
            best[row["formula"]] = min(energy, best.get(row["formula"], np.inf))
    return best


def lowest_known(rows: Sequence[Mapping]) -> list[Mapping]:
    """Return the row of least energy by the first kind of energy that all rows have, all rows where there is none."""
    for name in ENERGIES_BEST_FIRST:
        energies = [row.get(name) for row in rows]
        if None not in energies:
            return [rows[int(np.argmin(energies))]]
    return list(rows)


def audit_row(
    sample: Mapping,
    relaxed: Mapping,
    hull: Mapping,
    chgnet_energy: float | str | None,
    elemental: Mapping[str, Mapping[str, float]],
    references: Mapping[str, float],
    hull_reference: str = "evaluator",
) -> dict:
    """Return the audit columns of one sample, ok where both potentials gave an energy.

    `elemental` holds the elemental energies (eV/atom) of "chgnet" and of "evaluator"; `references` those of
    `reference_energies`. What is known of a row that is not ok is kept, the rest is null.
    """
    row = {"structure_id": sample["structure_id"], "status": "not_attempted", "error": sample["error"]}
    if not has_structure(sample):
        return row
    evaluator_energy = relaxed["initial_energy_ev_per_atom"]
    if evaluator_energy is not None:
        try:
            evaluator_energy = comparable_energy(sample, evaluator_energy, relaxed["potential"], hull_reference)
        except ValueError as error:
            return row | {"status": "energy_failed", "error": str(error)}
    energies = {"evaluator": evaluator_energy}
    row["e_above_hull_ev_per_atom"] = hull["e_above_hull_ev_per_atom"]
    if isinstance(chgnet_energy, float):
        energies["chgnet"] = chgnet_energy
        row["chgnet_reference_energy_ev_per_atom"] = references.get(sample["formula"])
    else:
        row |= {"status": "energy_failed", "error": chgnet_energy}
    composition, missing = composition_of(sample["atomic_numbers"]), None
    for name, energy in energies.items():
        if energy is None:
            continue
        row[f"{name}_energy_ev_per_atom"] = energy
        try:
            row[f"{name}_formation_energy_ev_per_atom"] = formation_energy(composition, energy, elemental[name])
        except NoReference as error:
            missing = str(error)
    if energies["evaluator"] is None:
        failed = relaxed["status"] if relaxed["status"] != "ok" else "not_attempted"
        row |= {"status": failed, "error": relaxed["error"] or "the evaluator gave no energy of the structure"}
    elif "chgnet" in energies:
        row |= {"status": "no_reference" if missing else "ok", "error": missing}
    return row


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, inputs = dict(snakemake.params.settings), snakemake.input
    with logging_to(snakemake.log[0], "audit_rewards") as log:
        samples = read_table(inputs.samples, "samples").to_pylist()
        ids = [row["structure_id"] for row in samples]
        children = {name: read_table(inputs[name], name).to_pylist() for name in ("relaxed", "hull")}
        for name, rows in children.items():
            check_children([row["structure_id"] for row in rows], ids, str(inputs[name]))
        phases = read_table(inputs.phases, "materials").to_pylist()
        check_same_scale(phases, children["relaxed"], settings["reference"])
        potential = load_potential("chgnet", settings.get("model"), settings.get("device", "cpu"))
        with_structure = [row for row in samples if has_structure(row)]
        energies = energies_or_errors(potential, with_structure)
        energy_of = {row["structure_id"]: energy for row, energy in zip(with_structure, energies, strict=True)}
        elements = {z for row in with_structure for z in row["atomic_numbers"]}
        elemental_phases = [row for row in phases if elements.issuperset(row["atomic_numbers"])]
        elemental = {
            "chgnet": elemental_energies(potential, elemental_phases),
            "evaluator": hull_of_phases(phases).elemental_energies,
        }
        materials = read_table(inputs.materials, "materials").to_pylist()
        references = reference_energies(potential, materials, {row["formula"] for row in with_structure})
        rows = [
            audit_row(
                sample,
                relaxed,
                hull,
                energy_of.get(sample["structure_id"]),
                elemental,
                references,
                settings["reference"],
            )
            for sample, relaxed, hull in zip(samples, children["relaxed"], children["hull"], strict=True)
        ]
        run = describe_run(settings, [inputs[n] for n in ("samples", "relaxed", "hull", "materials", "phases")])
        write_table(snakemake.output[0], rows, "reward_audit", run)
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
