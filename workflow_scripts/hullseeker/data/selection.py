"""Which materials of the data set are in use, and which are only known.

Needs: nothing beyond Python.

A material that the config leaves out (`left_out` says why) is not trained on, not prompted with and not part of the
test set. It still competes on the hull, and a sample that is the same crystal as one of training is not novel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Values of `left_out`, and the key of the config's `data` section that each follows from.
REASONS = {
    "too_large": "max_sites",
    "excluded_element": "exclude_elements",
    "unstable": "max_e_above_hull_ev_per_atom",
}


def rows_in_use(rows: Iterable[Mapping], split: str | None = None) -> list[Mapping]:
    """Return the rows of the materials table that are not left out, of one split or of all (None)."""
    return [row for row in rows if row.get("left_out") is None and split in (None, row["split"])]
