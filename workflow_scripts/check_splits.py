"""Check that no formula is in training and test, and no crystal in two splits; copy the data set to the output."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator

import pandas as pd

from hullseeker.data.selection import rows_in_use
from hullseeker.metrics.matching import TIME_LIMIT_S, Crystal, CrystalGroup, find_cell, find_matches
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import reduced_formula, to_structure

SHOWN = 5
LOG_EVERY_S = 60.0


def find_leaks(rows: list[dict], on_leak: str = "report") -> list[dict]:
    """Return a row (formula, splits, ids, duplicates, not_compared) for each reduced formula in more than one split.

    `duplicates` are pairs of ids in different splits that pymatgen's StructureMatcher (defaults) matches. Crystals of
    different reduced formulas never match, so they are not compared. `not_compared` has the error by id, for crystals
    without a reduced cell and for pairs on which the matcher failed ("id = id").

    With on_leak "fail", formulas in both train and test are returned at once, without comparing crystals (`duplicates`
    is None); if there are none, the search stops at the first pair of duplicates.
    """
    by_formula: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_formula[reduced_formula(row["atomic_numbers"])].append(row)
    shared = {f: group for f, group in sorted(by_formula.items()) if len({row["split"] for row in group}) > 1}
    leaks = []
    for formula, group in shared.items():
        ids = [row["structure_id"] for row in group]
        splits = sorted({row["split"] for row in group})
        leaks.append({"formula": formula, "splits": splits, "ids": ids, "duplicates": None, "not_compared": {}})
    in_train_and_test = [leak for leak in leaks if {"train", "test"} <= set(leak["splits"])]
    if in_train_and_test and on_leak == "fail":
        return in_train_and_test
    steps = _count_crystals(sum(len(leak["ids"]) for leak in leaks))
    for leak in leaks:
        leak["duplicates"], leak["not_compared"] = find_duplicates(shared[leak["formula"]], steps, on_leak == "fail")
        if leak["duplicates"] and on_leak == "fail":
            break
    return [leak for leak in leaks if leak["duplicates"] is not None]


def _count_crystals(n: int) -> Iterator[int]:
    """Yield 0 to n - 1, with a progress bar and a line in the log every minute."""
    log, last_logged = logging.getLogger("hullseeker.check_splits"), time.monotonic()
    for i in progress(range(n), "comparing crystals across splits"):
        if time.monotonic() - last_logged > LOG_EVERY_S:
            log.info("compared %d of %d crystals whose formula is in two splits", i, n)
            last_logged = time.monotonic()
        yield i


def find_duplicates(
    rows: list[dict], steps: Iterator[int], ends_at_first: bool = False
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the pairs of ids of duplicates in different splits, and the errors of crystals that could not be compared.

    `rows` have one formula; each crystal takes one item of `steps`. `ends_at_first` stops at the first pair.
    """
    groups: dict[str, CrystalGroup] = defaultdict(CrystalGroup)
    index_of = {row["structure_id"]: i for i, row in enumerate(rows)}
    duplicates, not_compared = [], {}
    # In reverse order, so that in each pair the earlier crystal is matched onto the later one.
    for row in reversed(rows):
        next(steps)
        structure_id = row["structure_id"]
        try:
            crystal = Crystal(to_structure(row), structure_id)
            matches = []
            for split in sorted(groups.keys() - {row["split"]}):
                for other, error in find_matches(crystal, groups[split], TIME_LIMIT_S):
                    if error is None:
                        matches.append(other.structure_id)
                        if ends_at_first:
                            return [(structure_id, other.structure_id)], not_compared
                    else:
                        not_compared[f"{structure_id} = {other.structure_id}"] = error
            find_cell(crystal, TIME_LIMIT_S)
        except Exception as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
            not_compared[structure_id] = f"{type(error).__name__}: {error}"
            continue
        duplicates += [(structure_id, other) for other in matches]
        groups[row["split"]].append(crystal)
    duplicates.sort(key=lambda pair: (index_of[pair[0]], index_of[pair[1]]))
    return duplicates, not_compared


def describe_leaks(leaks: list[dict]) -> str:
    """Return a description of the leaks for error and log."""
    shown = "; ".join(f"{leak['formula']} in {' and '.join(leak['splits'])}" for leak in leaks[:SHOWN])
    more = "; …" if len(leaks) > SHOWN else ""
    formulas = f"{len(leaks)} formulas are in more than one split ({shown}{more})"
    if any(leak["duplicates"] is None for leak in leaks):
        return f"{formulas}; their crystals were not compared, since a formula in both train and test is already a leak"
    n_pairs = sum(len(leak["duplicates"]) for leak in leaks)
    pairs = [f"{first} = {second}" for leak in leaks for first, second in leak["duplicates"]]
    crystals = f" ({', '.join(pairs[:SHOWN])}{', …' if len(pairs) > SHOWN else ''})" if pairs else ""
    return f"{formulas}, {n_pairs} pairs of crystals{crystals} are the same"


def describe_not_compared(leaks: list[dict]) -> str:
    """Return a description of the crystals and pairs ("id = id") in two splits that could not be compared."""
    failed = [(name, error) for leak in leaks for name, error in leak["not_compared"].items()]
    shown = "; ".join(f"{name}: {error}" for name, error in failed[:SHOWN])
    more = "; …" if len(failed) > SHOWN else ""
    return f"{len(failed)} crystals or pairs of crystals in two splits could not be compared ({shown}{more})"


def is_leak(leak: dict) -> bool:
    """Return whether the formula is in both train and test, or one of its crystals in two splits."""
    return {"train", "test"} <= set(leak["splits"]) or bool(leak["duplicates"])


def main(snakemake) -> None:
    started = time.perf_counter()
    settings = dict(snakemake.params.settings)
    with logging_to(snakemake.log[0], "check_splits") as log:
        table = read_table(snakemake.input.materials, "materials")
        shared = find_leaks(rows_in_use(table.to_pylist()), settings["on_leak"])
        leaks = [leak for leak in shared if is_leak(leak)]
        if leaks and settings["on_leak"] == "fail":
            raise ValueError(
                f"the splits leak: {describe_leaks(leaks)}. Let Hullseeker split (give data.materials instead of "
                "data.train and data.test), or accept the leak with data.on_leak: report"
            )
        if leaks:
            log.warning("the splits leak: %s", describe_leaks(leaks))
        if any(leak["not_compared"] for leak in shared):
            log.warning("%s", describe_not_compared(shared))
        listed = [leak for leak in shared if is_leak(leak) or leak["not_compared"]]
        columns = {
            "formula": [leak["formula"] for leak in listed],
            "splits": [" ".join(leak["splits"]) for leak in listed],
            "structure_ids": [" ".join(leak["ids"]) for leak in listed],
            "n_duplicate_pairs": [len(leak["duplicates"]) for leak in listed],
            "n_not_compared": [len(leak["not_compared"]) for leak in listed],
        }
        with replacing(snakemake.output.leaks) as temporary_path:
            pd.DataFrame(columns).to_csv(temporary_path, index=False)
        input_metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        metadata = {**input_metadata, **describe_run(settings, [snakemake.input.materials], snakemake.params.seed)}
        write_table(snakemake.output.materials, table, "materials", metadata)
        log.info("done: %d leaks among %d materials, %.1f s", len(leaks), table.num_rows, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
