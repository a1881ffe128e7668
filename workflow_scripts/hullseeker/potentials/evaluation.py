"""Energies of rows of structures as they stand: an energy each, or why there is none.

Needs: numpy, ase, pyarrow; a potential handed in, or the packages of the one that the settings name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa

from hullseeker.potentials.interface import Potential, load_potential, refusal_of_elements
from hullseeker.potentials.registry import EVALUATORS
from hullseeker.runtime.logs import progress
from hullseeker.tables.content_cache import ContentCache
from hullseeker.tables.structures import content_key, to_atoms

BLOCK_SIZE = 64
ENERGY = "energy_ev_per_atom"
ROWS_PER_SAVE = 512
# Any change of what an evaluation yields must change this: it is part of the cache's name.
CACHE_VERSION = "2"


def energies_or_errors(potential: Potential, rows: Sequence[Mapping]) -> list[float | str]:
    """Return the energy (eV/atom) of each row's structure, or why there is none; one bad cell fails alone."""
    outcomes: list[float | str] = []
    for start in progress(range(0, len(rows), BLOCK_SIZE), potential.name):
        outcomes += energies_of_block(potential, rows[start : start + BLOCK_SIZE])
    return outcomes


def energies_of_block(potential: Potential, rows: Sequence[Mapping]) -> list[float | str]:
    """Return the energy (eV/atom) of each row, evaluated together where that works, or why there is none."""
    refusals = [refusal_of_elements(potential, row["atomic_numbers"]) for row in rows]
    if len(rows) == 1 and refusals[0]:
        return [refusals[0]]
    try:
        if any(refusals):
            raise ValueError("evaluated one by one, so that only the row with unknown elements fails")
        energies = potential.energies([to_atoms(row) for row in rows])
    except Exception as error:  # noqa: BLE001  a potential may raise anything on a hopeless geometry
        if len(rows) == 1:
            return [f"{potential.name}: {type(error).__name__}: {error}"]
        return [outcome for row in rows for outcome in energies_of_block(potential, [row])]
    return [float(e) if np.isfinite(e) else f"{potential.name} returned {e}" for e in energies]


def energies_once(settings: Mapping, rows: Sequence[Mapping], cache_dir: str, log) -> list[float | str]:
    """Return the energy (eV/atom) of each row as it stands, or why there is none.

    What was computed before, for whatever experiment, is read back. One crystal at a time: batched energies depend, in
    the last digits, on what shares the batch.
    """
    evaluator = EVALUATORS[settings["potential"]]
    model = settings["model"] or evaluator.default_model
    version = f"{settings['potential']}-{model}-{metadata.version(evaluator.package)}-{CACHE_VERSION}".replace("/", "_")
    cache = ContentCache(Path(cache_dir) / version, [pa.field(ENERGY, pa.float64())])
    keys = [content_key(row) for row in rows]
    found = {key: row[ENERGY] for key, row in cache.load(keys).items()}
    missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in found}
    log.info("%d crystals, %d of them evaluated before", len(set(keys)), len(set(keys)) - len(missing))
    potential = load_potential(settings["potential"], settings["model"], settings["device"]) if missing else None
    unsaved: dict[str, dict] = {}
    for n, (key, row) in enumerate(progress(list(missing.items()), "reward energies"), start=1):
        assert potential is not None
        (found[key],) = energies_of_block(potential, [row])
        if isinstance(found[key], float):
            unsaved[key] = {ENERGY: found[key]}
        if len(unsaved) >= ROWS_PER_SAVE or n == len(missing):
            cache.save(unsaved)
            unsaved = {}
    return [found[key] for key in keys]
