"""Split the data set by reduced formula or chemical system into train, val and test; splits that are given are kept."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from pymatgen.core import Element

from hullseeker.data.primitive_cells import fitting_columns
from hullseeker.data.selection import REASONS, rows_in_use
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run, seed_for
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import reduced_formula


def group_of(atomic_numbers: Sequence[int], by: str) -> str:
    """Return the group of a crystal, which goes into one split: its reduced formula or chemical system (Fe-O)."""
    if by == "formula":
        return reduced_formula(atomic_numbers)
    return "-".join(sorted(Element.from_Z(int(z)).symbol for z in set(atomic_numbers)))


def assign_splits(
    n_elements: Mapping[str, int], test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, str]:
    """Return train, val or test per group, given each group's number of elements.

    The fractions (rounded) hold for each number of elements. Groups are ordered by a hash of the seed and their name,
    so that with more data a group changes its split only if the boundary between splits passes it.
    """
    splits = {}
    for n in sorted(set(n_elements.values())):
        groups = sorted(
            (g for g in n_elements if n_elements[g] == n), key=lambda g: (seed_for(seed, "split_materials", g), g)
        )
        n_test = round(test_fraction * len(groups))
        n_held_out = round((test_fraction + validation_fraction) * len(groups))
        for i, group in enumerate(groups):
            splits[group] = "test" if i < n_test else "val" if i < n_held_out else "train"
    return splits


def stable_enough(rows: Sequence[dict], max_e_above_hull_ev_per_atom: float | None) -> list[dict]:
    """Return the rows with E_hull at or below the limit; ValueError if a row has no E_hull."""
    if max_e_above_hull_ev_per_atom is None:
        return list(rows)
    unknown = [row["structure_id"] for row in rows if row["e_above_hull_ev_per_atom"] is None]
    if unknown:
        raise ValueError(
            f"data.max_e_above_hull_ev_per_atom is {max_e_above_hull_ev_per_atom:g}, but {len(unknown)} of {len(rows)} "
            f"materials have no e_above_hull_ev_per_atom ({unknown[0]}, …); set it to null, or give their energies"
        )
    return [row for row in rows if row["e_above_hull_ev_per_atom"] <= max_e_above_hull_ev_per_atom]


def leave_out(rows: Sequence[dict], settings: Mapping) -> int:
    """Set `left_out` of each row, and make cells in use primitive where max_sites requires it; return their number."""
    excluded = {Element(symbol).Z for symbol in settings["exclude_elements"]}
    fitting = {row["structure_id"]: fitting_columns(row, settings["max_sites"]) for row in rows}
    for row in rows:
        row["left_out"] = None
        if fitting[row["structure_id"]] is None:
            row["left_out"] = "too_large"
        elif excluded.intersection(row["atomic_numbers"]):
            row["left_out"] = "excluded_element"
    allowed = rows_in_use(rows)
    stable = {row["structure_id"] for row in stable_enough(allowed, settings["max_e_above_hull_ev_per_atom"])}
    for row in allowed:
        if row["structure_id"] in stable:
            row |= fitting[row["structure_id"]]
        else:
            row["left_out"] = "unstable"
    return sum(bool(fitting[row["structure_id"]]) for row in rows_in_use(rows))


def check_sets(rows: Sequence[Mapping], settings: Mapping) -> None:
    """Raise ValueError if the config's filters leave out all rows of a given split, or of the whole data set."""
    for split in sorted({row["split"] for row in rows}, key=str):
        split_rows = [row for row in rows if row["split"] == split]
        if rows_in_use(split_rows):
            continue
        counts = Counter(row["left_out"] for row in split_rows)
        reasons = ", ".join(f"{n} by data.{REASONS[key]} ({settings[REASONS[key]]})" for key, n in counts.items())
        where = f"of the {split} set (data.{split})" if split else "of the data set"
        raise ValueError(
            f"all {len(split_rows)} materials {where} are left out: {reasons}; change these keys, or give other files"
        )


def fill_splits(rows: Sequence[dict], settings: Mapping, seed: int) -> None:
    """Set the split of each row that has none; draw a validation set from a given training set that comes without one.

    Splits are drawn among the groups of rows in use. A row that is left out gets the split of its group, or train if no
    row of its group is in use. Raises ValueError if only some rows have a split.
    """
    given = {row["split"] for row in rows}
    if None in given and len(given) > 1:
        raise ValueError("some materials have a split and some have none; give all of them a split, or none")
    test, val = settings["test_fraction"], settings["validation_fraction"]
    if "val" in given:
        return
    undecided = [row for row in rows if row["split"] in (None, "train")]
    groups = [group_of(row["atomic_numbers"], settings["split_by"]) for row in undecided]
    n_elements = {
        group: len(set(row["atomic_numbers"]))
        for group, row in zip(groups, undecided, strict=True)
        if row.get("left_out") is None
    }
    splits = assign_splits(n_elements, 0.0 if "test" in given else test, val, seed)
    for row, group in zip(undecided, groups, strict=True):
        row["split"] = splits.get(group, "train")


def main(snakemake) -> None:
    settings, seed = dict(snakemake.params.settings), snakemake.params.seed
    with logging_to(snakemake.log[0], "split_materials") as log:
        rows = read_table(snakemake.input.materials, "materials").to_pylist()
        for row in rows:
            row["formula"] = reduced_formula(row["atomic_numbers"])
        n_made_primitive = leave_out(rows, settings)
        check_sets(rows, settings)
        fill_splits(rows, settings, seed)
        n_rows = {name: len(rows_in_use(rows, name)) for name in ("train", "val", "test")}
        if not n_rows["train"] or not n_rows["test"]:
            raise ValueError(
                f"the split gives {n_rows} rows in use of {len(rows)} rows, but train and test each need at least one; "
                "change data.test_fraction, data.max_sites or the files"
            )
        reasons = Counter(row["left_out"] for row in rows)
        counts = {
            "n_read": len(rows),
            "n_made_primitive": n_made_primitive,
            "n_too_large": reasons["too_large"],
            "n_excluded": reasons["excluded_element"],
            "n_unstable": reasons["unstable"],
        }
        metadata = describe_run(settings, [snakemake.input.materials], seed) | {"selection": json.dumps(counts)}
        write_table(snakemake.output.materials, rows, "materials", metadata)
        log.info(
            "done: %d rows read, %d made primitive to fit %d sites; left out of training and test: %d above %d sites, "
            "%d with excluded elements, %d too far above the hull; in use: %s",
            counts["n_read"],
            n_made_primitive,
            settings["max_sites"],
            counts["n_too_large"],
            settings["max_sites"],
            counts["n_excluded"],
            counts["n_unstable"],
            ", ".join(f"{name} {n}" for name, n in n_rows.items()),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
