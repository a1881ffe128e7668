"""Uniqueness among the samples and novelty with respect to the training set, of unrelaxed generated structures.

Needs: numpy, pymatgen.
"""

from __future__ import annotations

from collections.abc import Mapping

from hullseeker.metrics.matching import TIME_LIMIT_S, Crystal, CrystalGroup, matches_any
from hullseeker.runtime.logs import progress
from hullseeker.tables.structures import has_structure, to_structure

MAX_SHOWN = 5


def novelty_rows(samples: list[Mapping], known: Mapping[str, CrystalGroup]) -> list[dict]:
    """Return one novelty row per sample, in the samples' order; `known` is the training set by reduced formula.

    TIME_LIMIT_S applies to each pair of crystals. Later samples are compared with a sample even if the matcher failed
    on one of its own pairs.
    """
    earlier: dict[str, CrystalGroup] = {}
    rows = []
    for sample in progress(samples, "novelty"):
        row = {"structure_id": sample["structure_id"], "status": "not_attempted", "error": sample["error"]}
        if has_structure(sample):
            try:
                crystal, formula = Crystal(to_structure(sample), sample["structure_id"]), sample["formula"]
                group = earlier.setdefault(formula, CrystalGroup())
                try:
                    is_unique = not matches_any(crystal, group, TIME_LIMIT_S)
                    is_novel = not matches_any(crystal, known.get(formula, ()), TIME_LIMIT_S)
                finally:
                    if "cell" in vars(crystal):
                        group.append(crystal)
            except Exception as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
                row |= {"status": "match_failed", "error": f"the matcher failed: {type(error).__name__}: {error}"}
            else:
                row |= {"status": "ok", "error": None, "is_unique": is_unique, "is_novel": is_novel}
        rows.append(row)
    return rows


def describe_not_reduced(known: Mapping[str, CrystalGroup]) -> str | None:
    """Return a message about the training crystals whose cell could not be reduced; None if there are none."""
    failed = [(crystal.structure_id, error) for group in known.values() for crystal, error in group.not_reduced]
    if not failed:
        return None
    shown = "; ".join(f"{name}: {error}" for name, error in failed[:MAX_SHOWN])
    more = "; …" if len(failed) > MAX_SHOWN else ""
    return f"{len(failed)} training crystals could not be compared with any sample ({shown}{more})"
