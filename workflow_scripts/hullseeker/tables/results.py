"""Tables of results: one row per system (or per system, step and status), as CSV for people and Parquet for programs.

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
    """Write a table of results whole: floats to 6 significant digits in CSV, in full in Parquet; null is empty."""
    with replacing(parquet_path) as beside:
        frame.to_parquet(beside, index=False)
    with replacing(csv_path) as beside:
        frame.to_csv(beside, index=False, float_format=CSV_FLOATS, lineterminator="\n")


def read_result_table(path: str | Path) -> pd.DataFrame:
    """Read a table of results from its CSV; names are text, whatever they look like (007, NA, nan)."""
    return pd.read_csv(path, converters=dict.fromkeys(("system", "label", "step", "status"), str))


def as_paths(named_input: str | Sequence[str]) -> list[str]:
    """Return a named Snakemake input as a list: a rule may give one path or many."""
    return [str(named_input)] if isinstance(named_input, (str, Path)) else [str(path) for path in named_input]


def paths_by_evaluator(
    named_input: str | Sequence[str], evaluators: Sequence[str], n_systems: int
) -> dict[str, list[str]]:
    """Return the paths, one per system, of every evaluator; a rule lists them by evaluator, and within it by system."""
    paths = as_paths(named_input)
    if len(paths) != len(evaluators) * n_systems:
        raise ValueError(f"{len(paths)} tables for {len(evaluators)} evaluators of {n_systems} systems")
    return {name: paths[i * n_systems : (i + 1) * n_systems] for i, name in enumerate(evaluators)}


def read_system(samples: str | Path, **children: str | Path) -> dict[str, pd.DataFrame]:
    """Return the samples of one system and its child tables by schema name, indexed by structure_id.

    Raises TableError where a child does not carry exactly the ids of the samples.
    """
    frames = {"samples": _frame(samples, "samples")}
    for schema_name, path in children.items():
        frames[schema_name] = _frame(path, schema_name)
        check_children(list(frames[schema_name].index), list(frames["samples"].index), str(path))
    return frames


def _frame(path: str | Path, schema_name: str) -> pd.DataFrame:
    heavy = ("lattice_ang", "atomic_numbers", "frac_coords", "text")
    table = read_table(path, schema_name)
    light = table.select([name for name in table.column_names if name not in heavy])
    return light.to_pandas().set_index("structure_id")
