"""Evaluate every formula in all prototypes of its stoichiometry, and relax the structures of lowest energy."""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from pymatgen.core import Composition, Element, Structure

from hullseeker.data.prototypes import load_prototypes, with_guessed_volume
from hullseeker.metrics.matching import IDENTITY_MATCHER
from hullseeker.potentials.interface import Potential, load_potential
from hullseeker.potentials.registry import SETTINGS_OF_LOADING
from hullseeker.relaxation.per_cell import RelaxSettings
from hullseeker.relaxation.relaxed_rows import relax_block
from hullseeker.runtime.logs import close_with_counts, logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import from_structure, to_atoms

CELLS_TOGETHER = 16
# Arbitrary elements, to find assignments of elements to a prototype's sites that give the same crystal.
_PLACEHOLDERS = ("Na", "Cl", "Fe")


def site_assignments(structure: Structure) -> list[tuple[str, ...]]:
    """Return the distinct ways to replace a prototype's elements by a formula's, which are ordered by rising amount.

    Each is a tuple of the prototype's elements, in the order of the formula's elements that replace them. Of
    assignments that give the same crystal, only the first is returned.
    """
    amounts = structure.composition.reduced_composition
    elements = sorted(amounts, key=lambda element: (amounts[element], element.symbol))
    sorted_amounts = [amounts[element] for element in elements]
    distinct: list[tuple[tuple[str, ...], Structure]] = []
    for order in itertools.permutations(elements):
        if [amounts[element] for element in order] != sorted_amounts:
            continue
        decorated = structure.copy()
        decorated.remove_oxidation_states()
        decorated.replace_species(dict(zip(order, map(Element, _PLACEHOLDERS), strict=False)))
        if not any(IDENTITY_MATCHER.fit(decorated, other) for _, other in distinct):
            distinct.append((tuple(element.symbol for element in order), decorated))
    return [order for order, _ in distinct]


def prototypes_by_stoichiometry(max_sites: int) -> dict[str, list[tuple[str, Structure, tuple[str, ...]]]]:
    """Return (label, structure, site assignment) of all prototypes by anonymous formula (AB2)."""
    prototypes = defaultdict(list)
    for label, structure in load_prototypes(max_sites, (2, 3)):
        structure.remove_oxidation_states()
        assignments = site_assignments(structure)
        prototypes[structure.composition.anonymized_formula] += [(label, structure, order) for order in assignments]
    return dict(prototypes)


def decorations(formula: str, prototypes: dict) -> Iterator[tuple[str, Structure]]:
    """Yield (label, crystal at a predicted volume) for every prototype of the formula's stoichiometry."""
    composition = Composition(formula)
    elements = sorted(composition, key=lambda element: (composition[element], element.symbol))
    for label, structure, order in prototypes.get(composition.anonymized_formula, []):
        decorated = structure.replace_species(dict(zip(map(Element, order), elements, strict=True)), in_place=False)
        yield label, with_guessed_volume(decorated)


def lowest_in_energy(
    decorated: Sequence[tuple[str, Structure]], potential: Potential, n_kept: int
) -> list[tuple[str, dict, float]]:
    """Return (label, structure columns, energy in eV/atom) of the n_kept lowest in energy, unrelaxed."""
    rows = [from_structure(structure) for _, structure in decorated]
    if not rows:
        return []
    parts = [rows[start : start + CELLS_TOGETHER] for start in range(0, len(rows), CELLS_TOGETHER)]
    energies = np.concatenate([potential.energies([to_atoms(row) for row in part]) for part in parts])
    order = np.argsort(np.where(np.isfinite(energies), energies, np.inf), kind="stable")[:n_kept]
    return [(decorated[i][0], rows[i], float(energies[i])) for i in order if np.isfinite(energies[i])]


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, relax = dict(snakemake.params.settings), snakemake.params.relax
    shard, n_shards = int(snakemake.wildcards.shard), snakemake.params.n_shards
    with logging_to(snakemake.log[0], "screen_prototypes") as log:
        materials = read_table(snakemake.input.materials, "materials").to_pylist()
        formulas = sorted({row["formula"] for row in materials if len(set(row["atomic_numbers"])) > 1})
        prototypes = prototypes_by_stoichiometry(settings["max_sites"])
        potential = load_potential(*(relax.get(name) for name in SETTINGS_OF_LOADING))
        rows, n_screened = [], 0
        for index, formula in enumerate(progress(formulas, "screening prototypes")):
            if index % n_shards != shard:
                continue
            decorated = list(decorations(formula, prototypes))
            n_screened += len(decorated)
            kept = lowest_in_energy(decorated, potential, settings["n_kept"])
            for rank, (label, columns, _) in enumerate(kept):
                name = f"screen-{index:06d}-{rank}"
                rows.append({"structure_id": name, **columns, "formula": formula, "prototype": label})
        size, method = relax["block_size"], RelaxSettings.from_config(relax)
        blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
        relaxed = []
        for block in progress(blocks, "relaxing the lowest"):
            relaxed += relax_block(potential, block, method, relax["engine"])
        metadata = describe_run({**settings, **relax}, [snakemake.input.materials])
        write_table(snakemake.output.screened, rows, "candidates", metadata)
        write_table(snakemake.output.relaxed, relaxed, "relaxed", metadata)
        log.info("%d structures screened, %d kept", n_screened, len(rows))
        close_with_counts(log, (row["status"] for row in relaxed), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
