"""Download the materials for training and test from the Materials Project, and add the energies of their phases."""

import json
import time

import pyarrow as pa
import pyarrow.compute as pc

from hullseeker.data.materials_project import MaterialsProject, download, summary_row
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.schemas import SCHEMAS

FIELDS = ("material_id", "structure", "theoretical")
ENERGIES = (
    "corrected_energy_ev_per_atom",
    "uncorrected_energy_ev_per_atom",
    "formation_energy_ev_per_atom",
    "database_e_above_hull_ev_per_atom",
    "run_type",
)


def query_of(settings: dict) -> dict:
    """Return the query parameters of the server for the config's filters.

    Materials too large for training or with an excluded element stay: samples that match them are not novel.
    """
    return {"deprecated": False} | ({"theoretical": False} if settings["icsd_only"] else {})


def with_energies(materials: pa.Table, phases: pa.Table) -> tuple[pa.Table, list[dict]]:
    """Return the materials whose id is that of a phase, with its energies, and refusals for the others."""
    ids = phases.column("structure_id")
    indices = pc.index_in(materials.column("structure_id"), value_set=ids.combine_chunks())
    has_phase = pc.is_valid(indices)
    matched = materials.filter(has_phase)
    energies = phases.take(indices.filter(has_phase))
    for name in ENERGIES:
        position = SCHEMAS["materials"].get_field_index(name)
        matched = matched.set_column(position, SCHEMAS["materials"].field(position), energies.column(name))
    without = materials.filter(pc.invert(has_phase)).column("structure_id").to_pylist()
    return matched, [{"structure_id": name, "error": "no energy among the competing phases"} for name in without]


def main(snakemake) -> None:
    started = time.perf_counter()
    params, settings = snakemake.params, dict(snakemake.params.settings)
    with logging_to(snakemake.log[0], "extract_materials") as log:
        source = MaterialsProject(
            settings["endpoint"], settings["max_attempts"], settings["longest_wait_s"], log.warning
        )
        query = query_of(settings)
        materials, refused, n_documents = download(
            source, "summary", query | {"_sort_fields": "material_id"}, FIELDS, summary_row, params.cache_dir,
            settings["page_size"], log.info,
        )  # fmt: skip
        matched, without = with_energies(materials, read_table(snakemake.input.phases, "materials"))
        e_above_hull = matched.column("database_e_above_hull_ev_per_atom")
        kept = matched.filter(pc.less(e_above_hull, settings["e_above_hull_below_ev_per_atom"]))
        refused = sorted(refused + without, key=lambda row: row["structure_id"])
        facts = {
            "endpoint": source.endpoint,
            "database_version": source.db_version,
            "query": query,
            "n_documents": n_documents,
            "n_refused": len(refused),
            "n_above_hull": matched.num_rows - kept.num_rows,
        }
        metadata = describe_run(settings, [snakemake.input.phases]) | {"extraction": json.dumps(facts)}
        write_table(snakemake.output.materials, kept, "materials", metadata)
        write_table(snakemake.output.refused, refused, "refusals", metadata)
        log.info(
            "done: %d materials, %d too far above the hull, %d refused, %.1f s",
            kept.num_rows,
            facts["n_above_hull"],
            len(refused),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
