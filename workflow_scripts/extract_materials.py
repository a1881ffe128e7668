"""Download the materials to learn from and to test on from the Materials Project, and give them their energies."""

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

    What is too large to train on, or has an excluded element, is downloaded: a sample of it is not novel.
    """
    return {"deprecated": False} | ({"theoretical": False} if settings["icsd_only"] else {})


def with_energies(materials: pa.Table, phases: pa.Table) -> tuple[pa.Table, list[dict]]:
    """Return the materials that have a phase of their id, with its energies, and refusals for the others."""
    ids = phases.column("structure_id")
    places = pc.index_in(materials.column("structure_id"), value_set=ids.combine_chunks())
    known = pc.is_valid(places)
    found = materials.filter(known)
    energies = phases.take(places.filter(known))
    for name in ENERGIES:
        at = SCHEMAS["materials"].get_field_index(name)
        found = found.set_column(at, SCHEMAS["materials"].field(at), energies.column(name))
    without = materials.filter(pc.invert(known)).column("structure_id").to_pylist()
    return found, [{"structure_id": name, "error": "no energy among the competing phases"} for name in without]


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
        found, without = with_energies(materials, read_table(snakemake.input.phases, "materials"))
        below = pc.less(found.column("database_e_above_hull_ev_per_atom"), settings["e_above_hull_below_ev_per_atom"])
        kept = found.filter(below)
        refused = sorted(refused + without, key=lambda row: row["structure_id"])
        facts = {
            "endpoint": source.endpoint,
            "database_version": source.db_version,
            "query": query,
            "n_documents": n_documents,
            "n_refused": len(refused),
            "n_above_hull": found.num_rows - kept.num_rows,
        }
        about = describe_run(settings, [snakemake.input.phases]) | {"extraction": json.dumps(facts)}
        write_table(snakemake.output.materials, kept, "materials", about)
        write_table(snakemake.output.refused, refused, "refusals", about)
        log.info(
            "done: %d materials, %d too far above the hull, %d refused, %.1f s",
            kept.num_rows,
            facts["n_above_hull"],
            len(refused),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
