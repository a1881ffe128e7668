"""Choose the competing phases that the sampled compositions need: those within a chemical system of a sample."""

import time
from collections.abc import Collection, Iterable
from itertools import chain, combinations

import pyarrow as pa

from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import TableError, read_table, write_table
from hullseeker.tables.structures import reduced_formula

# Of our own phases among a user's: his ids and ours must not be taken for one another.
PREFIX = "embedded-"
# Beyond this many elements a system has too many subsystems to list.
MAX_LISTED = 10

System = frozenset[int]


def join_phases(*tables: Iterable[dict]) -> list[dict]:
    """Return the rows of all tables, an id once, the earlier table's row; TableError where an id means two formulas."""
    joined: dict[str, dict] = {}
    for row in chain(*tables):
        formula = reduced_formula(row["atomic_numbers"])
        before = joined.setdefault(row["structure_id"], {**row, "formula": formula})
        if before["formula"] != formula:
            raise TableError(
                f"structure_id {row['structure_id']} is {before['formula']} among the phases and {formula} elsewhere; "
                "ids must mean one structure in all files"
            )
    return list(joined.values())


def embedded_rows(rows: Iterable[dict], given: Collection[str]) -> list[dict]:
    """Return our own phases under ids with a prefix; TableError where a given id is one of these."""
    ours = [{**row, "structure_id": PREFIX + row["structure_id"]} for row in rows]
    taken = sorted({row["structure_id"] for row in ours} & set(given))
    if taken:
        raise TableError(
            f"structure_id {taken[0]} of your files is also that of an embedded phase; ids that begin with {PREFIX} "
            "are ours: rename yours"
        )
    return ours


def with_elements(rows: list[dict], elements: Iterable[dict]) -> tuple[list[dict], list[str]]:
    """Return the rows and the elemental phases of elements that have none among them, and the formulas added."""
    there = {row["atomic_numbers"][0] for row in rows if len(set(row["atomic_numbers"])) == 1}
    added = [row for row in elements if row["atomic_numbers"][0] not in there]
    return rows + added, sorted({row["formula"] for row in added})


def needed(table: pa.Table, queried: Collection[System]) -> list[dict]:
    """Return the rows of a materials table whose elements are all in one of the queried systems."""
    listed = {
        frozenset(part)
        for system in queried
        if len(system) <= MAX_LISTED
        for n in range(1, len(system) + 1)
        for part in combinations(sorted(system), n)
    }
    large = [system for system in queried if len(system) > MAX_LISTED]
    systems = map(frozenset, table.column("atomic_numbers").to_pylist())
    mask = [own in listed or any(own <= system for system in large) for own in systems]
    return table.filter(pa.array(mask, pa.bool_())).to_pylist()


def main(snakemake) -> None:
    started = time.perf_counter()
    with logging_to(snakemake.log[0], "select_phases") as log:
        queried: set[System] = set()
        for path in snakemake.input.samples:
            numbers = read_table(path, "samples").column("atomic_numbers").to_pylist()
            queried |= {frozenset(z) for z in numbers if z is not None}
        elements = snakemake.input.elements
        paths = [*snakemake.input.phases, snakemake.input.materials]
        given = join_phases(*(needed(read_table(path, "materials"), queried) for path in paths))
        # Our elements have no energy on the database's scale.
        ours = [] if snakemake.params.reference == "mp" else needed(read_table(elements, "materials"), queried)
        embedded = [row for path in snakemake.input.embedded for row in needed(read_table(path, "materials"), queried)]
        ids = {row["structure_id"] for row in given}
        embedded = embedded_rows(embedded, ids)
        chosen, added = with_elements(given + embedded, embedded_rows(ours, ids))
        if added:
            log.warning("no elemental phase given of %d elements; ours are added: %s", len(added), ", ".join(added))
        about = describe_run({}, [*paths, *snakemake.input.embedded, elements, *snakemake.input.samples])
        write_table(snakemake.output[0], chosen, "materials", about)
        log.info(
            "done: %d given phases, %d embedded ones and %d added elements are within the %d chemical systems of the "
            "samples; %.1f s",
            len(given),
            len(embedded),
            len(added),
            len(queried),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
