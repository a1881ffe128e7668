"""The comparison of trained systems as it is printed: values by seed, differences and ratios to the baseline.

Needs: pandas.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from hullseeker.metrics.quantities import COUNTS, PRINTED, QUANTITIES
from hullseeker.report.rendering import Column
from hullseeker.report.result_tables import is_printed, number

TITLE = "Comparison of trained systems"


def with_interval(row: Mapping, name: str, decimals: int, sign: str = "") -> tuple[str, str]:
    """Return a value and its interval as printed; `sign` + shows the sign of a difference."""
    if pd.isna(row[name]):
        return number(None, decimals), ""
    value, low, high = (f"{row[n]:{sign}.{decimals}f}" for n in (name, f"{name}_ci_low", f"{name}_ci_high"))
    return value.replace("-", "−"), f"[{low}, {high}]".replace("-", "−")


def columns_of(frame: pd.DataFrame, baseline: str) -> list[Column]:
    """Return the printed lines: each quantity, its values by seed, its difference and its ratio to the baseline."""
    pooled = frame[frame["replicate"].isna()].to_dict("records")
    label = next(row["label"] for row in pooled if row["system"] == baseline)
    columns = [Column("label", "System", [(row["label"], "") for row in pooled])]
    for name in PRINTED["comparison"]:
        if not is_printed(frame, name):
            continue
        decimals = QUANTITIES[name].few_decimals
        columns.append(
            Column(name, QUANTITIES[name].heading_with_arrow, [with_interval(row, name, decimals) for row in pooled])
        )
        if frame["replicate"].notna().any():
            cells = [(", ".join(seeds_of(frame, row["system"], name, decimals)), "") for row in pooled]
            columns.append(Column("by seed", "by seed", cells))
        for kind, words, places, sign in (
            ("difference", f"less {label}'s", decimals, "+"),
            ("ratio", f"by {label}'s", 2, ""),
        ):
            of_others = [
                with_interval(row, f"{name}_{kind}", places, sign) if row["system"] != baseline else ("", "")
                for row in pooled
            ]
            columns.append(Column(f"{name}_{kind}", words, of_others))
    columns.append(Column("n_samples", COUNTS["n_samples"], [(f"{row['n_samples']}", "") for row in pooled]))
    return columns


def seeds_of(frame: pd.DataFrame, system: str, name: str, decimals: int) -> list[str]:
    """Return the values of a system's replicates; its own where it has one."""
    of_system = frame[frame["system"] == system]
    some = of_system[of_system["replicate"].notna()]
    return [number(value, decimals) for value in (some if len(some) else of_system)[name]]
