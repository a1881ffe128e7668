"""Select the competing phases that the samples need: those within the chemical system of a sample."""

import time
from collections.abc import Collection, Iterable
from itertools import chain, combinations

import pyarrow as pa

from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import TableError, read_table, write_table
from hullseeker.tables.structures import reduced_formula

# Prefix of the ids of embedded phases, which could otherwise equal ids of the user's files.
PREFIX = "embedded-"
# Largest number of elements of a chemical system whose subsystems are listed.
MAX_LISTED = 10

System = frozenset[int]


def join_phases(*tables: Iterable[dict]) -> list[dict]:
    """Return the rows of all tables, for each id the first; TableError if an id has two formulas."""
    joined: dict[str, dict] = {}
    for row in chain(*tables):
        formula = reduced_formula(row["atomic_numbers"])
        first = joined.setdefault(row["structure_id"], {**row, "formula": formula})
        if first["formula"] != formula:
            raise TableError(
                f"structure_id {row['structure_id']} is {first['formula']} in one table and {formula} in another; "
                "give each structure a unique id across all files"
            )
    return list(joined.values())


def embedded_rows(rows: Iterable[dict], given: Collection[str]) -> list[dict]:
    """Return embedded phases with prefixed ids; TableError if one of these is among the given ids."""
    embedded = [{**row, "structure_id": PREFIX + row["structure_id"]} for row in rows]
    taken = sorted({row["structure_id"] for row in embedded} & set(given))
    if taken:
        raise TableError(
            f"structure_id {taken[0]} of your files is also that of an embedded phase; rename it, since ids that begin "
            f"with {PREFIX} are reserved"
        )
    return embedded


def with_elements(rows: list[dict], elements: Iterable[dict]) -> tuple[list[dict], list[str]]:
    """Return the rows with the elemental phases that they lack, and the formulas of the added phases."""
    present = {row["atomic_numbers"][0] for row in rows if len(set(row["atomic_numbers"])) == 1}
    added = [row for row in elements if row["atomic_numbers"][0] not in present]
    return rows + added, sorted({row["formula"] for row in added})


def within_systems(table: pa.Table, queried: Collection[System]) -> list[dict]:
    """Return the rows of a materials table whose elements are all in one of the queried chemical systems."""
    listed = {
        frozenset(part)
        for system in queried
        if len(system) <= MAX_LISTED
        for n in range(1, len(system) + 1)
        for part in combinations(sorted(system), n)
    }
    large = [system for system in queried if len(system) > MAX_LISTED]
    systems = map(frozenset, table.column("atomic_numbers").to_pylist())
    mask = [elements in listed or any(elements <= system for system in large) for elements in systems]
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
        given = join_phases(*(within_systems(read_table(path, "materials"), queried) for path in paths))
        # The embedded elements have no corrected energies of the database.
        uses_mp_energies = snakemake.params.reference == "mp"
        elemental = [] if uses_mp_energies else within_systems(read_table(elements, "materials"), queried)
        embedded = [
            row for path in snakemake.input.embedded for row in within_systems(read_table(path, "materials"), queried)
        ]
        ids = {row["structure_id"] for row in given}
        embedded = embedded_rows(embedded, ids)
        chosen, added = with_elements(given + embedded, embedded_rows(elemental, ids))
        if added:
            log.warning(
                "the files have no elemental phase of %d elements; embedded ones are added: %s",
                len(added),
                ", ".join(added),
            )
        metadata = describe_run({}, [*paths, *snakemake.input.embedded, elements, *snakemake.input.samples])
        write_table(snakemake.output[0], chosen, "materials", metadata)
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
