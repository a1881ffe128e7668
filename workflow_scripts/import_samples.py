"""Import samples of any generator from a file into the samples table; every entry is a row, readable or not."""

import time
from collections.abc import Sequence
from functools import cache

from pymatgen.core import Composition

from hullseeker.data.structure_files import Entry, read_entries
from hullseeker.runtime.logs import close_with_counts, logging_to
from hullseeker.runtime.provenance import cif_files_of, describe_run
from hullseeker.tables.parquet import TableError, write_table
from hullseeker.tables.structures import COLUMNS, reduced_formula


@cache
def _problem_with(formula: str) -> str | None:
    """Return why a text is not a chemical formula; None if it is one."""
    try:
        return None if Composition(formula) else "it names no element"
    except Exception as error:  # noqa: BLE001  pymatgen raises many exceptions
        return str(error)


def sample_row(entry: Entry, system: str, number: int) -> dict:
    """Return the `samples` row of one entry; TableError if its prompt_formula is not a formula."""
    row = {"structure_id": f"{system}-{number:06d}", "system": system, "source_id": entry.source_id}
    row |= {name: entry.properties.get(name) for name in ("prompt_formula", "draw", "n_tokens", "text")}
    prompt = row["prompt_formula"]
    if prompt is not None and (problem := _problem_with(prompt)):
        raise TableError(
            f"column prompt_formula, entry {number + 1} ({entry.source_id}): {prompt!r} is no chemical formula "
            f"({problem}); correct it, or leave it empty"
        )
    if isinstance(entry.outcome, str):
        return {**row, "status": "parse_failed", "error": entry.properties.get("error") or entry.outcome}
    structure = {name: entry.outcome[name] for name in COLUMNS}
    return {**row, **structure, "status": "ok", "formula": reduced_formula(structure["atomic_numbers"])}


def sample_rows(entries: Sequence[Entry], system: str, path: str) -> list[dict]:
    """Return one `samples` row per entry, numbered in the file's order; TableError if there are no entries."""
    if not entries:
        raise TableError(f"{path} holds no sample (0 rows); systems.{system} needs at least one")
    return [sample_row(entry, system, number) for number, entry in enumerate(entries)]


def main(snakemake) -> None:
    started = time.perf_counter()
    system, path = snakemake.wildcards.system, snakemake.params.path
    with logging_to(snakemake.log[0], "import_samples") as log:
        rows = sample_rows(read_entries(path, system, int(snakemake.threads)), system, path)
        for row in rows:
            if row["status"] != "ok":
                log.warning("%s (%s): %s", row["structure_id"], row["source_id"], row["error"])
        write_table(snakemake.output.samples, rows, "samples", describe_run({"path": path}, cif_files_of(path)))
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
