"""Load an evaluator where there is a network, so that its weights are downloaded, and compute one energy with it."""

import json
import time
from pathlib import Path

import torch
from ase.build import bulk

from hullseeker.potentials.interface import load_potential
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to


def energy_of_rock_salt(potential: str, model: str | None, precision: str) -> float:
    """Return the energy (eV/atom) of NaCl at its lattice constant; RuntimeError if the weights cannot be loaded."""
    loaded = load_potential(potential, model, "cpu", precision)
    return float(loaded.energies([bulk("NaCl", "rocksalt", a=5.64)])[0])


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    with logging_to(snakemake.log[0], "fetch_evaluator") as log:
        energy = energy_of_rock_salt(settings["potential"], settings["model"], settings["precision"])
        metadata = {name: settings[name] for name in ("potential", "model", "precision")}
        with replacing(snakemake.output[0]) as temporary_path:
            Path(temporary_path).write_text(
                json.dumps({**metadata, "energy_of_rock_salt_ev_per_atom": energy}, indent=1)
            )
        log.info("done: rock salt has %.3f eV/atom, %.1f s", energy, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
