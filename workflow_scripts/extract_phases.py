"""Download the competing phases of the hull from the Materials Project: all thermo entries of one thermo type."""

import json
import time

from hullseeker.data.materials_project import MaterialsProject, download, thermo_row
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import write_table

FIELDS = (
    "material_id",
    "energy_type",
    "energy_per_atom",
    "uncorrected_energy_per_atom",
    "formation_energy_per_atom",
    "energy_above_hull",
    "entries",
)


def main(snakemake) -> None:
    started = time.perf_counter()
    settings = dict(snakemake.params.settings)
    with logging_to(snakemake.log[0], "extract_phases") as log:
        source = MaterialsProject(
            settings["endpoint"], settings["max_attempts"], settings["longest_wait_s"], log.warning
        )
        criteria = {"thermo_types": settings["thermo_type"]}
        phases, refused, n_documents = download(
            source, "thermo", criteria, FIELDS, thermo_row, snakemake.params.cache_dir, settings["page_size"], log.info
        )
        facts = {
            "endpoint": source.endpoint,
            "database_version": source.db_version,
            "query": criteria,
            "n_documents": n_documents,
            "n_refused": len(refused),
        }
        metadata = describe_run(settings) | {"extraction": json.dumps(facts)}
        write_table(snakemake.output.phases, phases, "materials", metadata)
        write_table(snakemake.output.refused, refused, "refusals", metadata)
        seconds = time.perf_counter() - started
        log.info("done: %d phases, %d refused, %.1f s", phases.num_rows, len(refused), seconds)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
