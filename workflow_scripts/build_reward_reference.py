"""The hull energy of every training formula with the reward potential's own energies, of training crystals alone."""

import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import torch

from audit_rewards import energies_of_block
from hullseeker.content_cache import ContentCache
from hullseeker.evaluators import EVALUATORS, name_in_rows
from hullseeker.hull import Hull, NoReference, composition_of
from hullseeker.logs import close_with_counts, logging_to, progress
from hullseeker.potentials import load_potential
from hullseeker.provenance import describe_run
from hullseeker.structures import content_key
from hullseeker.tables import read_table, write_table

ENERGY = "energy_ev_per_atom"
ROWS_PER_SAVE = 512


def phases_of_training(materials: Sequence[Mapping], elements: Sequence[Mapping]) -> list[Mapping]:
    """Return the training crystals and the elemental phases of their elements; nothing of validation or test."""
    training = [row for row in materials if row["split"] == "train"]
    needed = {z for row in training for z in row["atomic_numbers"]}
    return training + [row for row in elements if needed.issuperset(row["atomic_numbers"])]


def energies_once(settings: Mapping, rows: Sequence[Mapping], cache_dir: str, log) -> list[float | str]:
    """Return the energy (eV/atom) of each row as it stands, or why there is none.

    What was computed before, for whatever experiment, is read back. One crystal at a time: batched energies depend, in
    the last digits, on what shares the batch.
    """
    evaluator = EVALUATORS[settings["potential"]]
    model = settings["model"] or evaluator.default_model
    version = f"{settings['potential']}-{model}-{metadata.version(evaluator.package)}".replace("/", "_")
    cache = ContentCache(Path(cache_dir) / version, [pa.field(ENERGY, pa.float64())])
    keys = [content_key(row) for row in rows]
    found = {key: row[ENERGY] for key, row in cache.load(keys).items()}
    missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in found}
    log.info("%d crystals, %d of them evaluated before", len(set(keys)), len(set(keys)) - len(missing))
    potential = load_potential(settings["potential"], settings["model"], settings["device"]) if missing else None
    unsaved: dict[str, dict] = {}
    for n, (key, row) in enumerate(progress(list(missing.items()), "reward energies"), start=1):
        (found[key],) = energies_of_block(potential, [row])
        if isinstance(found[key], float):
            unsaved[key] = {ENERGY: found[key]}
        if len(unsaved) >= ROWS_PER_SAVE or n == len(missing):
            cache.save(unsaved)
            unsaved = {}
    return [found[key] for key in keys]


def reference_rows(rows: Sequence[Mapping], energies: Sequence[float | str], potential: str) -> list[dict]:
    """Return one row per formula of the rows that have a split: its hull energy, or why there is none (eV/atom)."""
    known = [(row, energy) for row, energy in zip(rows, energies, strict=True) if isinstance(energy, float)]
    hull = Hull.of_structures([row["atomic_numbers"] for row, _ in known], [energy for _, energy in known])
    numbers = {row["formula"]: row["atomic_numbers"] for row in rows if row.get("split")}
    lowest: dict[str, float] = {}
    for row, energy in known:
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


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, inputs = dict(snakemake.params.settings), snakemake.input
    with logging_to(snakemake.log[0], "build_reward_reference") as log:
        materials = read_table(inputs.materials, "materials").to_pylist()
        elements = [{**row, "split": None} for row in read_table(inputs.elements, "materials").to_pylist()]
        rows = phases_of_training(materials, elements)
        energies = energies_once(settings, rows, snakemake.params.cache_dir, log)
        for row, energy in zip(rows, energies, strict=True):
            if isinstance(energy, str):
                log.warning("%s is no competing phase: %s", row["structure_id"], energy)
        name = name_in_rows(settings["potential"], settings["model"])
        reference = reference_rows(rows, energies, name)
        run = describe_run(settings, [inputs.materials, inputs.elements])
        write_table(snakemake.output[0], reference, "reward_reference", run)
        close_with_counts(log, (row["status"] for row in reference), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
