"""Split the data set by reduced formula or chemical system: none of the test split is in training."""

import json
from collections.abc import Mapping, Sequence

from pymatgen.core import Element

from hullseeker.logs import logging_to
from hullseeker.provenance import describe_run, seed_for
from hullseeker.structures import reduced_formula
from hullseeker.tables import read_table, write_table


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


def stable_enough(rows: Sequence[dict], max_e_above_hull_ev_per_atom: float | None) -> list[dict]:
    """Return the rows no farther above the hull than that; ValueError where one has no E_hull to judge it by."""
    if max_e_above_hull_ev_per_atom is None:
        return list(rows)
    unknown = [row["structure_id"] for row in rows if row["e_above_hull_ev_per_atom"] is None]
    if unknown:
        raise ValueError(
            f"data.max_e_above_hull_ev_per_atom is {max_e_above_hull_ev_per_atom:g}, and {len(unknown)} of {len(rows)} "
            f"materials have no e_above_hull_ev_per_atom ({unknown[0]}, …); set it to null, or give their energies"
        )
    return [row for row in rows if row["e_above_hull_ev_per_atom"] <= max_e_above_hull_ev_per_atom]


def fill_splits(rows: Sequence[dict], settings: Mapping, seed: int) -> None:
    """Give each row its split: the one it came with, or one drawn here; a ready-made training set without
    validation set has its validation share drawn from it. ValueError where some rows came with a split, some without.
    """
    given = {row["split"] for row in rows}
    if None in given and len(given) > 1:
        raise ValueError("some materials come with a split and some without; give all or none")
    test, val = settings["test_fraction"], settings["validation_fraction"]
    if "val" in given:
        return
    undecided = [row for row in rows if row["split"] in (None, "train")]
    groups = [group_of(row["atomic_numbers"], settings["split_by"]) for row in undecided]
    n_elements = {group: len(set(row["atomic_numbers"])) for group, row in zip(groups, undecided, strict=True)}
    splits = assign_splits(n_elements, 0.0 if "test" in given else test, val, seed)
    for row, group in zip(undecided, groups, strict=True):
        row["split"] = splits[group]


def main(snakemake) -> None:
    settings, seed = dict(snakemake.params.settings), snakemake.params.seed
    with logging_to(snakemake.log[0], "split_materials") as log:
        rows = read_table(snakemake.input.materials, "materials").to_pylist()
        excluded = {Element(symbol).Z for symbol in settings["exclude_elements"]}
        small = [row for row in rows if len(row["atomic_numbers"]) <= settings["max_sites"]]
        allowed = [row for row in small if not excluded.intersection(row["atomic_numbers"])]
        used = stable_enough(allowed, settings["max_e_above_hull_ev_per_atom"])
        for row in used:
            row["formula"] = reduced_formula(row["atomic_numbers"])
        fill_splits(used, settings, seed)
        n_rows = {name: sum(row["split"] == name for row in used) for name in ("train", "val", "test")}
        if not n_rows["train"] or not n_rows["test"]:
            raise ValueError(
                f"the split gives {n_rows} rows of {len(rows)}; both train and test need some: "
                "change data.test_fraction, data.max_sites or the files"
            )
        counts = {"n_read": len(rows), "n_too_large": len(rows) - len(small), "n_excluded": len(small) - len(allowed)}
        counts["n_unstable"] = len(allowed) - len(used)
        about = describe_run(settings, [snakemake.input.materials], seed) | {"selection": json.dumps(counts)}
        write_table(snakemake.output.materials, used, "materials", about)
        log.info(
            "done: %d rows read, %d above %d sites, %d with excluded elements, %d too far above the hull; %s",
            counts["n_read"],
            counts["n_too_large"],
            settings["max_sites"],
            counts["n_excluded"],
            counts["n_unstable"],
            ", ".join(f"{name} {n}" for name, n in n_rows.items()),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
