"""Select materials (near the hull) and competing phases (the others) from relaxed candidates, without duplicates."""

import math
import time
from collections import defaultdict

import numpy as np
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from hullseeker.metrics.hull import Hull, composition_of
from hullseeker.metrics.matching import IDENTITY_MATCHER, Crystal, matches_any
from hullseeker.runtime.logs import logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.results import as_paths
from hullseeker.tables.structures import from_structure, reduced_formula, to_structure


def drop_duplicates(rows: list[dict]) -> list[dict]:
    """Return, of matching structures of a reduced formula, the one of lowest energy."""
    by_formula = defaultdict(list)
    for row in sorted(rows, key=lambda r: (r["energy_ev_per_atom"], r["structure_id"])):
        kept = by_formula[row["formula"]]
        crystal = Crystal(to_structure(row))
        if not matches_any(crystal, [other for other, _ in kept]):
            kept.append((crystal, row))
    return [row for kept in by_formula.values() for _, row in kept]


def with_canonical_origin(structure: Structure) -> Structure:
    """Return the structure with an atom of its least electronegative element at the origin, and its sites sorted.

    Of these atoms, the one is taken that gives the first list of sites in sorted order. Prototypes have different
    conventions for the origin; one convention for all is easier for a model to learn.
    """
    first = min(structure.composition, key=lambda e: (0.0 if math.isnan(e.X) else e.X, e.Z))
    numbers = np.array([site.specie.Z for site in structure])
    best_key, best = None, None
    for origin in structure.frac_coords[numbers == first.Z]:
        # Round before wrapping, so that -1e-9 and 1e-9 are equal; compare with the two decimals of the crystal text.
        coordinates = np.round(structure.frac_coords - origin, 6) % 1.0
        rounded = np.round(coordinates, 2) % 1.0
        order = sorted(range(len(numbers)), key=lambda i: (numbers[i], *rounded[i], *coordinates[i]))  # noqa: B023
        key = [(numbers[i], *rounded[i]) for i in order]
        if best_key is None or key < best_key:
            best_key, best = key, Structure(structure.lattice, numbers[order], coordinates[order])
    return best


def standardised(row: dict) -> dict:
    """Return the row with its structure as the Niggli-reduced, symmetrised primitive cell, with a canonical origin.

    Equal crystals then have equal text, as far as symmetry determines it, and no angle is so small that rounding it to
    whole degrees would change the crystal.
    """
    structure = to_structure(row)
    primitive = SpacegroupAnalyzer(structure, symprec=0.05).get_primitive_standard_structure()
    primitive = primitive.get_reduced_structure(reduction_algo="niggli")
    if len(primitive) > len(structure) or not IDENTITY_MATCHER.fit(primitive, structure):
        primitive = structure.get_reduced_structure(reduction_algo="niggli")
    return row | from_structure(with_canonical_origin(primitive))


def elements_as_materials(elements: list[dict]) -> list[dict]:
    """Return every element's lowest-energy phase as a material on the hull, with a new id."""
    return [
        standardised(row) | {"structure_id": f"demo-{row['structure_id']}", "e_above_hull_ev_per_atom": 0.0}
        for row in elements
    ]


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs = dict(snakemake.params.settings), snakemake.input
    with logging_to(snakemake.log[0], "select_demo_materials") as log:
        paths_of_candidates = [*as_paths(inputs.candidates), *as_paths(inputs.get("screened", []))]
        candidates = {
            row["structure_id"]: row
            for path in paths_of_candidates
            for row in read_table(path, "candidates").to_pylist()
        }
        paths = [*as_paths(inputs.relaxed), *as_paths(inputs.get("relaxed_screened", []))]
        relaxed = [row for path in paths for row in read_table(path, "relaxed").to_pylist()]
        if {row["structure_id"] for row in relaxed} != set(candidates):
            raise ValueError(
                "the ids of the relaxed shards are not those of the candidates; relax all candidates again"
            )
        rows = [
            {
                "structure_id": row["structure_id"],
                "formula": reduced_formula(row["atomic_numbers"]),
                "prototype": candidates[row["structure_id"]]["prototype"],
                "energy_ev_per_atom": row["energy_ev_per_atom"],
                "energy_source": row["potential"],
                **{name: row[name] for name in ("lattice_ang", "atomic_numbers", "frac_coords")},
            }
            for row in relaxed
            if row["status"] == "ok"
        ]
        unique = [standardised(row) for row in drop_duplicates(progress(rows, "matching"))]
        elements = read_table(inputs.elements, "materials").to_pylist()
        entries = [*unique, *elements]
        hull = Hull([composition_of(r["atomic_numbers"]) for r in entries], [r["energy_ev_per_atom"] for r in entries])
        for row in unique:
            composition = composition_of(row["atomic_numbers"])
            row["e_above_hull_ev_per_atom"] = hull.e_above_hull(composition, row["energy_ev_per_atom"])
        limit = settings["keep_below_ev_per_atom"]
        materials = [row for row in unique if row["e_above_hull_ev_per_atom"] < limit] + elements_as_materials(elements)
        phases = [row for row in unique if row["e_above_hull_ev_per_atom"] >= limit]
        metadata = describe_run(settings, [*paths_of_candidates, inputs.elements])
        write_table(snakemake.output.materials, materials, "materials", metadata)
        write_table(snakemake.output.phases, phases, "materials", metadata)
        log.info(
            "done: %d candidates, %d converged, %d unique, %d materials of %d formulas, %d competing phases; %.1f s",
            len(candidates),
            len(rows),
            len(unique),
            len(materials),
            len({row["formula"] for row in materials}),
            len(phases),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
