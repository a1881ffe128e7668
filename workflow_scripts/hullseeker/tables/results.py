"""Result tables: one row per system (or per system, step and status), as CSV and as Parquet.

Needs: pandas, pyarrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hullseeker.runtime.atomic_writes import replacing
from hullseeker.tables.parquet import check_children, read_table

CSV_FLOATS = "%.6g"


def write_result_table(frame: pd.DataFrame, csv_path: str | Path, parquet_path: str | Path) -> None:
    """Write a result table atomically as CSV (6 significant digits, nulls empty) and as Parquet (full precision)."""
    with replacing(parquet_path) as beside:
        frame.to_parquet(beside, index=False)
    with replacing(csv_path) as beside:
        frame.to_csv(beside, index=False, float_format=CSV_FLOATS, lineterminator="\n")


def read_result_table(path: str | Path) -> pd.DataFrame:
    """Read a result table from CSV; the name columns are read as text, also 007, NA or nan."""
    return pd.read_csv(path, converters=dict.fromkeys(("system", "label", "step", "status"), str))


def as_paths(named_input: str | Sequence[str]) -> list[str]:
    """Return a named Snakemake input, which is a path or a list of paths, as a list."""
    return [str(named_input)] if isinstance(named_input, (str, Path)) else [str(path) for path in named_input]


def paths_by_evaluator(
    named_input: str | Sequence[str], evaluators: Sequence[str], n_systems: int
) -> dict[str, list[str]]:
    """Return the paths (one per system) by evaluator, of an input listed by evaluator and then by system.

    Raises ValueError if the number of paths is not the number of evaluators times `n_systems`.
    """
    paths = as_paths(named_input)
    if len(paths) != len(evaluators) * n_systems:
        raise ValueError(
            f"{len(paths)} tables for {len(evaluators)} evaluators of {n_systems} systems; "
            "expected one per evaluator and system"
        )
    return {name: paths[i * n_systems : (i + 1) * n_systems] for i, name in enumerate(evaluators)}


def read_system(samples: str | Path, **children: str | Path) -> dict[str, pd.DataFrame]:
    """Return the samples of one system and its child tables by schema name, indexed by structure_id.

    Raises TableError if the ids of a child table are not those of the samples.
    """
    frames = {"samples": _frame(samples, "samples")}
    for schema_name, path in children.items():
        frames[schema_name] = _frame(path, schema_name)
        check_children(list(frames[schema_name].index), list(frames["samples"].index), str(path))
    return frames


def _frame(path: str | Path, schema_name: str) -> pd.DataFrame:
    omitted = ("lattice_ang", "atomic_numbers", "frac_coords", "text")  # large, and not needed for results
    table = read_table(path, schema_name)
    table = table.select([name for name in table.column_names if name not in omitted])
    return table.to_pandas().set_index("structure_id")
