"""Let prototypes compete: for every formula, those of its stoichiometry, of which the lowest in energy are relaxed."""

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
# Elements of no meaning, to find out which ways of naming a prototype's sites are the same crystal.
_PLACEHOLDERS = ("Na", "Cl", "Fe")


def roles(structure: Structure) -> list[tuple[str, ...]]:
    """Return the orders in which a formula's elements, by rising amount, can take the places of the prototype's own.

    Orders that give the same crystal come once; each is a tuple of the prototype's elements.
    """
    amounts = structure.composition.reduced_composition
    own = sorted(amounts, key=lambda element: (amounts[element], element.symbol))
    wanted = [amounts[element] for element in own]
    found: list[tuple[tuple[str, ...], Structure]] = []
    for order in itertools.permutations(own):
        if [amounts[element] for element in order] != wanted:
            continue
        named = structure.copy()
        named.remove_oxidation_states()
        named.replace_species(dict(zip(order, map(Element, _PLACEHOLDERS), strict=False)))
        if not any(IDENTITY_MATCHER.fit(named, other) for _, other in found):
            found.append((tuple(element.symbol for element in order), named))
    return [order for order, _ in found]


def prototypes_by_stoichiometry(max_sites: int) -> dict[str, list[tuple[str, Structure, tuple[str, ...]]]]:
    """Return (label, structure, order of its elements) by anonymous formula (AB2)."""
    found = defaultdict(list)
    for label, structure in load_prototypes(max_sites, (2, 3)):
        structure.remove_oxidation_states()
        found[structure.composition.anonymized_formula] += [(label, structure, order) for order in roles(structure)]
    return dict(found)


def decorations(formula: str, prototypes: dict) -> Iterator[tuple[str, Structure]]:
    """Yield (label, crystal at its guessed volume) of every prototype of the formula's stoichiometry."""
    composition = Composition(formula)
    elements = sorted(composition, key=lambda element: (composition[element], element.symbol))
    for label, structure, order in prototypes.get(composition.anonymized_formula, []):
        decorated = structure.replace_species(dict(zip(map(Element, order), elements, strict=True)), in_place=False)
        yield label, with_guessed_volume(decorated)


def lowest(
    decorated: Sequence[tuple[str, Structure]], potential: Potential, n_kept: int
) -> list[tuple[str, dict, float]]:
    """Return (label, structure columns, energy in eV/atom) of the n_kept of lowest energy as they stand."""
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
        for place, formula in enumerate(progress(formulas, "screening prototypes")):
            if place % n_shards != shard:
                continue
            decorated = list(decorations(formula, prototypes))
            n_screened += len(decorated)
            for rank, (label, columns, _) in enumerate(lowest(decorated, potential, settings["n_kept"])):
                name = f"screen-{place:06d}-{rank}"
                rows.append({"structure_id": name, **columns, "formula": formula, "prototype": label})
        size, method = relax["block_size"], RelaxSettings.from_config(relax)
        blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
        relaxed = []
        for block in progress(blocks, "relaxing the lowest"):
            relaxed += relax_block(potential, block, method, relax["engine"])
        about = describe_run({**settings, **relax}, [snakemake.input.materials])
        write_table(snakemake.output.screened, rows, "candidates", about)
        write_table(snakemake.output.relaxed, relaxed, "relaxed", about)
        log.info("%d screened, %d kept", n_screened, len(rows))
        close_with_counts(log, (row["status"] for row in relaxed), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821  Snakemake puts this name into the script
