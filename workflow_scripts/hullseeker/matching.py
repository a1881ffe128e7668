"""Which structures are the same: match rate and RMSD, uniqueness, novelty.

Needs: pymatgen.

Every tolerance is passed: pymatgen's defaults have changed over the years.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pymatgen.analysis.structure_matcher import SpeciesComparator, StructureMatcher
from pymatgen.core import Structure

_THE_REST = {
    "primitive_cell": True,
    "scale": True,
    "attempt_supercell": False,
    "allow_subset": False,
    "supercell_size": "num_sites",
}
# Of the generated structure with its relaxed one: Xie et al. 2021, Miller et al. 2024.
MATCH_RATE_MATCHER = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10, comparator=SpeciesComparator(), **_THE_REST)
# Of samples with each other and with the training set: pymatgen's defaults of 2026.
IDENTITY_MATCHER = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5, comparator=SpeciesComparator(), **_THE_REST)


@dataclass(frozen=True)
class Match:
    """Whether two structures match, and if so their RMSD: normalised by (V/N)^(1/3), and in Å."""

    matched: bool
    rmsd_norm: float | None = None
    rmsd_ang: float | None = None


def match(generated: Structure, relaxed: Structure) -> Match:
    """Match a generated structure with its relaxed one; in Å with the mean of the two volumes per atom.

    Whatever pymatgen raises on a degenerate cell is raised.
    """
    found = MATCH_RATE_MATCHER.get_rms_dist(generated, relaxed)
    if found is None:
        return Match(False)
    rmsd_norm = float(found[0])
    volume_per_atom_ang3 = (generated.volume / len(generated) + relaxed.volume / len(relaxed)) / 2
    return Match(True, rmsd_norm, rmsd_norm * volume_per_atom_ang3 ** (1 / 3))


def group_by_formula(structures: Iterable[tuple[str, Structure]]) -> dict[str, list[Structure]]:
    """Return structures by the reduced formula they come with, order kept."""
    groups: dict[str, list[Structure]] = defaultdict(list)
    for formula, structure in structures:
        groups[formula].append(structure)
    return dict(groups)


def matches_any(structure: Structure, others: Sequence[Structure]) -> bool:
    """Return whether the structure matches at least one of the others under IDENTITY_MATCHER."""
    return any(IDENTITY_MATCHER.fit(structure, other) for other in others)
