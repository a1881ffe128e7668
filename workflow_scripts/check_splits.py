"""Fail where a formula or a crystal of one split is in another; else pass the data set on."""

import time
from collections import defaultdict
from itertools import combinations

import pandas as pd

from hullseeker.logs import logging_to, progress
from hullseeker.matching import Crystal, is_same
from hullseeker.provenance import describe_run
from hullseeker.structures import reduced_formula, to_structure
from hullseeker.tables import read_table, replacing, write_table

SHOWN = 5


def find_leaks(rows: list[dict]) -> list[dict]:
    """Return a row (formula, splits, ids, duplicates) for each reduced formula that is in more than one split.

    `duplicates` are pairs of ids in different splits that pymatgen's StructureMatcher (defaults) calls one crystal. It
    compares only structures of one reduced formula, so no other pair needs a look.
    """
    by_formula: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_formula[reduced_formula(row["atomic_numbers"])].append(row)
    shared = {f: found for f, found in sorted(by_formula.items()) if len({row["split"] for row in found}) > 1}
    leaks = []
    for formula, found in progress(shared.items(), "comparing crystals across splits"):
        crystals = {row["structure_id"]: Crystal(to_structure(row)) for row in found}
        duplicates = [
            (one["structure_id"], other["structure_id"])
            for one, other in combinations(found, 2)
            if one["split"] != other["split"]
            and is_same(crystals[one["structure_id"]], crystals[other["structure_id"]])
        ]
        splits = sorted({row["split"] for row in found})
        ids = [row["structure_id"] for row in found]
        leaks.append({"formula": formula, "splits": splits, "ids": ids, "duplicates": duplicates})
    return leaks


def describe_leaks(leaks: list[dict]) -> str:
    """Return the leaks in words."""
    n_pairs = sum(len(leak["duplicates"]) for leak in leaks)
    shown = "; ".join(f"{leak['formula']} in {' and '.join(leak['splits'])}" for leak in leaks[:SHOWN])
    pairs = [f"{one} = {other}" for leak in leaks for one, other in leak["duplicates"]]
    more = "; …" if len(leaks) > SHOWN else ""
    crystals = f" ({', '.join(pairs[:SHOWN])}{', …' if len(pairs) > SHOWN else ''})" if pairs else ""
    return (
        f"{len(leaks)} formulas are in more than one split ({shown}{more}), {n_pairs} pairs of crystals{crystals} are "
        "the same"
    )


def is_leak(leak: dict) -> bool:
    """Whether the formula is in training and in test, or a crystal of it in two splits."""
    return {"train", "test"} <= set(leak["splits"]) or bool(leak["duplicates"])


def main(snakemake) -> None:
    started = time.perf_counter()
    settings = dict(snakemake.params.settings)
    with logging_to(snakemake.log[0], "check_splits") as log:
        table = read_table(snakemake.input.materials, "materials")
        leaks = [leak for leak in find_leaks(table.to_pylist()) if is_leak(leak)]
        if leaks and settings["on_leak"] == "fail":
            raise ValueError(
                f"the splits leak: {describe_leaks(leaks)}. Let Hullseeker split (give data.materials instead of "
                "data.train and data.test), or accept it knowingly with data.on_leak: report"
            )
        if leaks:
            log.warning("the splits leak: %s", describe_leaks(leaks))
        columns = {
            "formula": [leak["formula"] for leak in leaks],
            "splits": [" ".join(leak["splits"]) for leak in leaks],
            "structure_ids": [" ".join(leak["ids"]) for leak in leaks],
            "n_duplicate_pairs": [len(leak["duplicates"]) for leak in leaks],
        }
        with replacing(snakemake.output.leaks) as beside:
            pd.DataFrame(columns).to_csv(beside, index=False)
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        about = {**metadata, **describe_run(settings, [snakemake.input.materials], snakemake.params.seed)}
        write_table(snakemake.output.materials, table, "materials", about)
        log.info("done: %d leaks among %d materials, %.1f s", len(leaks), table.num_rows, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
