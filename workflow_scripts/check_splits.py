"""Fail where a formula or a crystal of one split is in another; else pass the data set on."""

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

    `duplicates` are pairs of ids in different splits that pymatgen's StructureMatcher (defaults) calls one crystal. It
    compares only structures of one reduced formula, so no other pair needs a look. `not_compared` tells why by id, of
    crystals without a reduced cell and of pairs on which the matcher failed ("one = other").

    With on_leak "fail" a formula of training and test is the answer: only those are returned, and no crystal is
    compared (`duplicates` is None). Where there is none, the search ends at the first pair.
    """
    by_formula: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_formula[reduced_formula(row["atomic_numbers"])].append(row)
    shared = {f: found for f, found in sorted(by_formula.items()) if len({row["split"] for row in found}) > 1}
    leaks = []
    for formula, found in shared.items():
        ids = [row["structure_id"] for row in found]
        splits = sorted({row["split"] for row in found})
        leaks.append({"formula": formula, "splits": splits, "ids": ids, "duplicates": None, "not_compared": {}})
    of_training = [leak for leak in leaks if {"train", "test"} <= set(leak["splits"])]
    if of_training and on_leak == "fail":
        return of_training
    steps = _count_crystals(sum(len(leak["ids"]) for leak in leaks))
    for leak in leaks:
        leak["duplicates"], leak["not_compared"] = find_duplicates(shared[leak["formula"]], steps, on_leak == "fail")
        if leak["duplicates"] and on_leak == "fail":
            break
    return [leak for leak in leaks if leak["duplicates"] is not None]


def _count_crystals(n: int) -> Iterator[int]:
    """Yield 0 to n - 1, for the progress bar and, every minute, for the log."""
    log, told = logging.getLogger("hullseeker.check_splits"), time.monotonic()
    for i in progress(range(n), "comparing crystals across splits"):
        if time.monotonic() - told > LOG_EVERY_S:
            log.info("compared %d of %d crystals whose formula is in two splits", i, n)
            told = time.monotonic()
        yield i


def find_duplicates(
    rows: list[dict], steps: Iterator[int], ends_at_first: bool = False
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the pairs of ids that are one crystal in two splits, and why others could not be compared, by id.

    Takes the rows of one formula; one of `steps` is taken per crystal.
    """
    groups: dict[str, CrystalGroup] = defaultdict(CrystalGroup)
    places = {row["structure_id"]: i for i, row in enumerate(rows)}
    duplicates, not_compared = [], {}
    # From the last to the first, so that of each pair the earlier crystal is matched onto the later one.
    for row in reversed(rows):
        next(steps)
        one = row["structure_id"]
        try:
            crystal = Crystal(to_structure(row), one)
            found = []
            for split in sorted(groups.keys() - {row["split"]}):
                for other, error in find_matches(crystal, groups[split], TIME_LIMIT_S):
                    if error is None:
                        found.append(other.structure_id)
                        if ends_at_first:
                            return [(one, other.structure_id)], not_compared
                    else:
                        not_compared[f"{one} = {other.structure_id}"] = error
            find_cell(crystal, TIME_LIMIT_S)
        except Exception as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
            not_compared[one] = f"{type(error).__name__}: {error}"
            continue
        duplicates += [(one, other) for other in found]
        groups[row["split"]].append(crystal)
    duplicates.sort(key=lambda pair: (places[pair[0]], places[pair[1]]))
    return duplicates, not_compared


def describe_leaks(leaks: list[dict]) -> str:
    """Return the leaks in words."""
    shown = "; ".join(f"{leak['formula']} in {' and '.join(leak['splits'])}" for leak in leaks[:SHOWN])
    more = "; …" if len(leaks) > SHOWN else ""
    formulas = f"{len(leaks)} formulas are in more than one split ({shown}{more})"
    if any(leak["duplicates"] is None for leak in leaks):
        return f"{formulas}; their crystals were not compared, since a formula in train and in test is a leak already"
    n_pairs = sum(len(leak["duplicates"]) for leak in leaks)
    pairs = [f"{one} = {other}" for leak in leaks for one, other in leak["duplicates"]]
    crystals = f" ({', '.join(pairs[:SHOWN])}{', …' if len(pairs) > SHOWN else ''})" if pairs else ""
    return f"{formulas}, {n_pairs} pairs of crystals{crystals} are the same"


def describe_not_compared(leaks: list[dict]) -> str:
    """Return in words which crystals and pairs ("one = other") of formulas in two splits could not be compared."""
    failed = [(name, error) for leak in leaks for name, error in leak["not_compared"].items()]
    shown = "; ".join(f"{name}: {error}" for name, error in failed[:SHOWN])
    more = "; …" if len(failed) > SHOWN else ""
    return f"{len(failed)} crystals or pairs of crystals in two splits could not be compared ({shown}{more})"


def is_leak(leak: dict) -> bool:
    """Whether the formula is in training and in test, or a crystal of it in two splits."""
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
                "data.train and data.test), or accept it knowingly with data.on_leak: report"
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
        with replacing(snakemake.output.leaks) as beside:
            pd.DataFrame(columns).to_csv(beside, index=False)
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        about = {**metadata, **describe_run(settings, [snakemake.input.materials], snakemake.params.seed)}
        write_table(snakemake.output.materials, table, "materials", about)
        log.info("done: %d leaks among %d materials, %.1f s", len(leaks), table.num_rows, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
