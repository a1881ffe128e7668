"""Format the comparison of trained systems: values by seed, differences and ratios to the baseline.

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
    """Format a value and its 95% interval; `sign` "+" also prints the sign of positive numbers."""
    if pd.isna(row[name]):
        return number(None, decimals), ""
    value, low, high = (f"{row[n]:{sign}.{decimals}f}" for n in (name, f"{name}_ci_low", f"{name}_ci_high"))
    return value.replace("-", "−"), f"[{low}, {high}]".replace("-", "−")


def columns_of(frame: pd.DataFrame, baseline: str) -> list[Column]:
    """Return the printed columns: each quantity, its values by seed, and its difference and ratio to the baseline."""
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
        for kind, heading, n_decimals, sign in (
            ("difference", f"difference from {label}", decimals, "+"),
            ("ratio", f"ratio to {label}", 2, ""),
        ):
            cells = [
                with_interval(row, f"{name}_{kind}", n_decimals, sign) if row["system"] != baseline else ("", "")
                for row in pooled
            ]
            columns.append(Column(f"{name}_{kind}", heading, cells))
    columns.append(Column("n_samples", COUNTS["n_samples"], [(f"{row['n_samples']}", "") for row in pooled]))
    return columns


def seeds_of(frame: pd.DataFrame, system: str, name: str, decimals: int) -> list[str]:
    """Return the formatted values of a system's replicates, or the pooled value of a system without replicates."""
    system_rows = frame[frame["system"] == system]
    replicates = system_rows[system_rows["replicate"].notna()]
    return [number(value, decimals) for value in (replicates if len(replicates) else system_rows)[name]]
