"""Selection of the materials that are used for training and testing.

Needs: the standard library.

A material that the config excludes (`left_out` gives the reason) is not used for training, prompts or the test set. It
remains a competing phase of the hull, and a sample that matches an excluded training crystal is not novel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Values of `left_out`, and the corresponding key of the config's `data` section.
REASONS = {
    "too_large": "max_sites",
    "excluded_element": "exclude_elements",
    "unstable": "max_e_above_hull_ev_per_atom",
}


def rows_in_use(rows: Iterable[Mapping], split: str | None = None) -> list[Mapping]:
    """Return the rows of the materials table that are not excluded, of one split or of all (None)."""
    return [row for row in rows if row.get("left_out") is None and split in (None, row["split"])]
