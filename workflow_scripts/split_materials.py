"""Split the data set by reduced formula or chemical system: none of the test split is in training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from pymatgen.core import Element, Structure

from hullseeker.logs import logging_to, progress
from hullseeker.provenance import describe_run, seed_for
from hullseeker.structures import COLUMNS, from_structure, reduced_formula
from hullseeker.tables import TableError, read_table, write_table


def group_of(atomic_numbers: Sequence[int], by: str) -> str:
    """Return what must stay in one split: the reduced formula, or the chemical system (Fe-O)."""
    if by == "formula":
        return reduced_formula(atomic_numbers)
    return "-".join(sorted(Element.from_Z(int(z)).symbol for z in set(atomic_numbers)))


def assign_splits(
    n_elements: Mapping[str, int], test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, str]:
    """Return train, val or test per group, given each group's number of elements.

    Each number of elements gives the same shares of its groups (rounded). Within it, the groups' order is drawn from
    the seed and the group's name alone, so that more data moves a group only where the cut between splits moves.
    """
    splits = {}
    for n in sorted(set(n_elements.values())):
        groups = sorted(
            (g for g in n_elements if n_elements[g] == n), key=lambda g: (seed_for(seed, "split_materials", g), g)
        )
        n_test = round(test_fraction * len(groups))
        n_held_out = round((test_fraction + validation_fraction) * len(groups))
        for place, group in enumerate(groups):
            splits[group] = "test" if place < n_test else "val" if place < n_held_out else "train"
    return splits


def read_materials(path: str | Path) -> tuple[list[dict], list[str]]:
    """Return material rows and why others were refused; reads our table, Parquet, or CSV with a `cif` column."""
    path = Path(path)
    if path.suffix == ".csv":
        frame = pd.read_csv(path)
        if "cif" not in frame.columns:
            raise TableError(f"{path} has columns {list(frame.columns)}; it needs one named cif")
        ids = (
            frame["material_id"].astype(str)
            if "material_id" in frame.columns
            else [f"row-{i:06d}" for i in range(len(frame))]
        )
        rows, refused = [], []
        for structure_id, cif in zip(ids, progress(frame["cif"], "reading CIF"), strict=True):
            try:
                rows.append({"structure_id": structure_id, **from_structure(Structure.from_str(cif, fmt="cif"))})
            except Exception as error:  # noqa: BLE001  pymatgen's CIF reader raises many kinds; each is a refusal with its reason
                refused.append(f"{structure_id}: {type(error).__name__}: {error}")
        return rows, refused
    try:
        names = pq.read_schema(path).names
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    if "structure_id" in names:
        return read_table(path, "materials").to_pylist(), []
    missing = [name for name in ("material_id", *COLUMNS) if name not in names]
    if missing:
        raise TableError(f"{path} lacks the columns {missing}; a structure table has material_id, {', '.join(COLUMNS)}")
    rows = pq.read_table(path, columns=["material_id", *COLUMNS]).to_pylist()
    return [{"structure_id": str(row.pop("material_id")), **row} for row in rows], []


def main(snakemake) -> None:
    settings, seed = dict(snakemake.params.settings), snakemake.params.seed
    with logging_to(snakemake.log[0], "split_materials") as log:
        rows, refused = read_materials(snakemake.input.materials)
        for reason in refused:
            log.warning("refused %s", reason)
        for row in rows:
            row["formula"] = reduced_formula(row["atomic_numbers"])
        used = [row for row in rows if len(row["atomic_numbers"]) <= settings["max_sites"]]
        groups = [group_of(row["atomic_numbers"], settings["split_by"]) for row in used]
        n_elements = {group: len(set(row["atomic_numbers"])) for group, row in zip(groups, used, strict=True)}
        splits = assign_splits(n_elements, settings["test_fraction"], settings["validation_fraction"], seed)
        for row, group in zip(used, groups, strict=True):
            row["split"] = splits[group]
        n_rows = {name: sum(row["split"] == name for row in used) for name in ("train", "val", "test")}
        if not n_rows["train"] or not n_rows["test"]:
            raise ValueError(f"the split gives {n_rows} rows; both train and test need some: change data.test_fraction")
        write_table(
            snakemake.output.materials, used, "materials", describe_run(settings, [snakemake.input.materials], seed)
        )
        log.info(
            "done: %d rows read, %d refused, %d above %d sites left out; %s",
            len(rows) + len(refused),
            len(refused),
            len(rows) - len(used),
            settings["max_sites"],
            ", ".join(f"{name} {n}" for name, n in n_rows.items()),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
