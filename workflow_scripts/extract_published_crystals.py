"""Write the published crystals that the embedded data start from: bulks of Open Catalyst 2020, and the elements."""

import time
from collections import Counter

from hullseeker.data.elemental_crystals import download_elemental_crystals
from hullseeker.data.oc20_bulks import download_bulks
from hullseeker.data.primitive_cells import fitting_columns
from hullseeker.runtime.logs import logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import write_table
from hullseeker.tables.structures import COLUMNS, content_key, reduced_formula


def bulk_rows(bulks: list[dict], max_sites: int) -> tuple[list[dict], list[dict]]:
    """Return candidates and refusals; a cell of more than max_sites sites whose primitive one fits is that."""
    rows, refused, seen = [], [], {}
    for bulk in progress(bulks, "primitive cells"):
        name = bulk["source_id"]
        changed = fitting_columns(bulk, max_sites)
        if changed is None:
            error = f"{len(bulk['atomic_numbers'])} sites, and a primitive cell of more than {max_sites}"
            refused.append({"structure_id": name, "error": error})
            continue
        columns = {column: bulk[column] for column in COLUMNS} | changed
        key = content_key(columns)
        if key in seen:
            refused.append({"structure_id": name, "error": f"the same cell as {seen[key]}"})
            continue
        seen[key] = name
        rows.append({"structure_id": name, **columns, "formula": reduced_formula(columns["atomic_numbers"])})
    return rows, refused


def elemental_rows(entries: list[dict], max_sites: int, n_per_element: int) -> list[dict]:
    """Return, of every element, the entries of lowest published energy with at most max_sites sites."""
    rows, n_taken = [], Counter()
    for entry in entries:
        symbol = entry["symbol"]
        if len(entry["atomic_numbers"]) <= max_sites and n_taken[symbol] < n_per_element:
            n_taken[symbol] += 1
            columns = {column: entry[column] for column in COLUMNS}
            formula = reduced_formula(entry["atomic_numbers"])
            rows.append({"structure_id": f"element-{symbol}-{entry['rank']}", **columns, "formula": formula})
    return rows


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, output = dict(snakemake.params.settings), snakemake.output
    with logging_to(snakemake.log[0], "extract_published_crystals") as log:
        bulks, refused = bulk_rows(download_bulks(snakemake.params.cache_dir), settings["max_sites"])
        elements = elemental_rows(
            download_elemental_crystals(snakemake.params.cache_dir),
            settings["max_sites_of_elements"],
            settings["n_per_element"],
        )
        metadata = describe_run(settings)
        write_table(output.bulks, bulks, "candidates", metadata)
        write_table(output.elements, elements, "candidates", metadata)
        write_table(output.refused, refused, "refusals", metadata)
        log.info(
            "done: %d bulk crystals, %d left out, %d crystals of %d elements; %.1f s",
            len(bulks),
            len(refused),
            len(elements),
            len({row["formula"] for row in elements}),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
