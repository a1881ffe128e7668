"""Join the competing phases of the hull, with energies of the evaluator or with the database's corrected energies."""

import time

from hullseeker.potentials.energy_scales import MP_SOURCE
from hullseeker.relaxation.phases import evaluator_name, has_energy_of
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import merge_tables, read_table, write_table
from hullseeker.tables.structures import COLUMNS


def with_energies(phases: list[dict], relaxed: dict[str, dict], evaluator: str) -> tuple[list[dict], list[dict]]:
    """Return the phases with an energy of the evaluator, in their relaxed structure, and refusals for the others."""
    ready, refused = [], []
    for row in phases:
        outcome = relaxed.get(row["structure_id"])
        if outcome is None:
            ready.append(row)
        elif outcome["status"] == "ok":
            columns = {name: outcome[name] for name in (*COLUMNS, "energy_ev_per_atom")}
            ready.append({**row, **columns, "energy_source": evaluator})
        else:
            error = f"{outcome['status']}: {outcome['error']}"
            refused.append({"structure_id": row["structure_id"], "error": error})
    return ready, refused


def with_corrected_energies(phases: list[dict]) -> tuple[list[dict], list[dict]]:
    """Return the phases with the Materials Project's corrected energies, and refusals for those that have none."""
    ready, refused = [], []
    for row in phases:
        energy = row["corrected_energy_ev_per_atom"]
        if energy is None:
            refused.append({"structure_id": row["structure_id"], "error": "no corrected_energy_ev_per_atom"})
        else:
            ready.append({**row, "energy_ev_per_atom": energy, "energy_source": MP_SOURCE})
    if phases and not ready:
        raise ValueError(
            f"none of {len(phases)} competing phases has a corrected_energy_ev_per_atom, which hull.reference: mp "
            "needs; use data.source: materials_project, or hull.reference: evaluator"
        )
    return ready, refused


def main(snakemake) -> None:
    started = time.perf_counter()
    settings = dict(snakemake.params.relax)
    evaluator = evaluator_name(settings)
    with logging_to(snakemake.log[0], "build_reference") as log:
        phases = read_table(snakemake.input.phases, "materials").to_pylist()
        uses_mp_energies = snakemake.params.reference == "mp"
        expected = [row["structure_id"] for row in phases if not uses_mp_energies and not has_energy_of(row, evaluator)]
        shards = [read_table(path, "relaxed") for path in snakemake.input.relaxed]
        merged = merge_tables(shards, "relaxed", expected).to_pylist() if shards else []
        relaxed = {row["structure_id"]: row for row in merged}
        foreign = {row["potential"] for row in relaxed.values()} - {evaluator}
        if foreign:
            raise ValueError(
                f"phases were relaxed with {sorted(foreign)}, but the evaluator is {evaluator}; delete their tables "
                f"({', '.join(map(str, snakemake.input.relaxed))})"
            )
        ready, refused = (
            with_corrected_energies(phases) if uses_mp_energies else with_energies(phases, relaxed, evaluator)
        )
        for row in refused:
            log.warning("competing phase %s is left out of the hull: %s", row["structure_id"], row["error"])
        metadata = describe_run(settings, [snakemake.input.phases])
        write_table(snakemake.output.phases, ready, "materials", metadata)
        write_table(snakemake.output.refused, refused, "refusals", metadata)
        log.info(
            "done: %d phases with energies of %s, %d relaxed with the evaluator, %d left out; %.1f s",
            len(ready),
            MP_SOURCE if uses_mp_energies else evaluator,
            len(relaxed),
            len(refused),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
