"""Find the lowest-energy phase of every element that the evaluator covers, among elemental prototypes.

The energy of every prototype is scanned over volume at fixed shape; those of lowest energy are then relaxed fully.
"""

import time

import numpy as np
import torch
from ase import Atoms
from pymatgen.core import Element, Structure

from hullseeker.data.prototypes import load_prototypes
from hullseeker.potentials.interface import Potential, load_potential
from hullseeker.potentials.registry import SETTINGS_OF_LOADING
from hullseeker.relaxation.per_cell import RelaxSettings, relax_batch
from hullseeker.runtime.logs import logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import write_table
from hullseeker.tables.structures import from_atoms, from_structure, reduced_formula, to_atoms

N_SCANNED_VOLUMES = 6
# Smallest volume of the scan. No element is denser at zero pressure, and denser cells need long neighbour lists.
MIN_VOLUME_PER_ATOM_ANG3 = 5.0


def covalent_scale(structure: Structure, symbol: str) -> float:
    """Return the scale of lengths at which the shortest distance is twice the element's covalent radius."""
    from ase.data import covalent_radii

    images = structure * (2, 2, 2)
    distances = images.distance_matrix[np.triu_indices(len(images), 1)]
    return 2 * covalent_radii[Element(symbol).Z] / distances[distances > 0.1].min()


def scan_volumes(potential: Potential, structure: Structure, symbol: str) -> tuple[float, Atoms]:
    """Return the lowest energy (eV/atom) over a scan of volumes, and its cell."""
    base = covalent_scale(structure, symbol)
    cells = []
    for factor in np.linspace(0.85, 1.3, N_SCANNED_VOLUMES):
        scaled = structure.copy()
        volume = structure.volume * (base * factor) ** 3
        scaled.scale_lattice(max(volume, MIN_VOLUME_PER_ATOM_ANG3 * len(structure) * factor))
        cell = to_atoms(from_structure(scaled))
        cell.numbers[:] = Element(symbol).Z
        cells.append(cell)
    energies = potential.energies(cells)
    energies = np.where(np.isfinite(energies), energies, np.inf)
    best = int(energies.argmin())
    return float(energies[best]), cells[best]


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    relax, settings = dict(snakemake.params.relax), dict(snakemake.params.settings)
    rows = []
    with logging_to(snakemake.log[0], "find_elemental_phases") as log:
        potential = load_potential(*(relax.get(name) for name in SETTINGS_OF_LOADING))
        prototypes = load_prototypes(settings["max_sites"], (1,))
        for z in progress(sorted(potential.covered_atomic_numbers), "elemental phases"):
            symbol = Element.from_Z(z).symbol
            scanned = sorted(
                ((*scan_volumes(potential, structure, symbol), label) for label, structure in prototypes),
                key=lambda entry: (entry[0], entry[2]),
            )
            tried = scanned[: settings[f"n_relaxed_per_{'metal' if Element(symbol).is_metal else 'nonmetal'}"]]
            outcomes = relax_batch(potential, [cell for _, cell, _ in tried], RelaxSettings.from_config(relax))
            converged = [(o, label) for o, (_, _, label) in zip(outcomes, tried, strict=True) if o.status == "ok"]
            if not converged:
                raise RuntimeError(f"no phase of {symbol} converged: {[o.error for o in outcomes]}")
            outcome, label = min(converged, key=lambda pair: pair[0].energy_ev_per_atom)
            log.info(
                "%s %s %.4f eV/atom, %d of %d converged",
                symbol,
                label,
                outcome.energy_ev_per_atom,
                len(converged),
                len(tried),
            )
            columns = from_atoms(outcome.cell)
            rows.append(
                {
                    **columns,
                    "structure_id": f"element-{z:03d}",
                    "formula": reduced_formula(columns["atomic_numbers"]),
                    "prototype": label,
                    "energy_ev_per_atom": outcome.energy_ev_per_atom,
                    "energy_source": potential.name,
                }
            )
        write_table(snakemake.output[0], rows, "materials", describe_run(relax | settings))
        log.info("done: %d elements in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
