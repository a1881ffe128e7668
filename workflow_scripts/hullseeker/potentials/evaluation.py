"""Single-point energies of rows: an energy or an error message per row.

Needs: numpy, ase, pyarrow; a potential as argument, or the packages of the potential in the settings.
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
# Part of the cache's name; must change whenever the results of an evaluation change.
CACHE_VERSION = "2"


def energies_or_errors(potential: Potential, rows: Sequence[Mapping]) -> list[float | str]:
    """Return the energy (eV/atom) or an error message for each row; an error affects its row only."""
    outcomes: list[float | str] = []
    for start in progress(range(0, len(rows), BLOCK_SIZE), potential.name):
        outcomes += energies_of_block(potential, rows[start : start + BLOCK_SIZE])
    return outcomes


def energies_of_block(potential: Potential, rows: Sequence[Mapping]) -> list[float | str]:
    """Return the energy (eV/atom) or an error message for each row, evaluated in one batch if no row fails."""
    refusals = [refusal_of_elements(potential, row["atomic_numbers"]) for row in rows]
    if len(rows) == 1 and refusals[0]:
        return [refusals[0]]
    try:
        if any(refusals):
            raise ValueError("evaluate rows separately, so that only those with uncovered elements fail")
        energies = potential.energies([to_atoms(row) for row in rows])
    except Exception as error:  # noqa: BLE001  a potential can raise anything on a bad geometry
        if len(rows) == 1:
            return [f"{potential.name}: {type(error).__name__}: {error}"]
        return [outcome for row in rows for outcome in energies_of_block(potential, [row])]
    return [float(e) if np.isfinite(e) else f"{potential.name} returned {e}" for e in energies]


def cached_energies(settings: Mapping, rows: Sequence[Mapping], cache_dir: str, log) -> list[float | str]:
    """Return the energy (eV/atom) or an error message for each row, with a cache shared by all experiments.

    Evaluates one crystal at a time, because batched energies depend, in the last digits, on the other items of the
    batch.
    """
    evaluator = EVALUATORS[settings["potential"]]
    model = settings["model"] or evaluator.default_model
    version = f"{settings['potential']}-{model}-{metadata.version(evaluator.package)}-{CACHE_VERSION}".replace("/", "_")
    cache = ContentCache(Path(cache_dir) / version, [pa.field(ENERGY, pa.float64())])
    keys = [content_key(row) for row in rows]
    outcomes = {key: row[ENERGY] for key, row in cache.load(keys).items()}
    missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in outcomes}
    log.info("%d crystals, %d of them cached", len(set(keys)), len(set(keys)) - len(missing))
    potential = load_potential(settings["potential"], settings["model"], settings["device"]) if missing else None
    unsaved: dict[str, dict] = {}
    for n, (key, row) in enumerate(progress(list(missing.items()), "reward energies"), start=1):
        assert potential is not None
        (outcomes[key],) = energies_of_block(potential, [row])
        if isinstance(outcomes[key], float):
            unsaved[key] = {ENERGY: outcomes[key]}
        if len(unsaved) >= ROWS_PER_SAVE or n == len(missing):
            cache.save(unsaved)
            unsaved = {}
    return [outcomes[key] for key in keys]
