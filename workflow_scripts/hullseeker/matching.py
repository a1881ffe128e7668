"""Which structures are the same: match rate and RMSD, uniqueness, novelty.

Needs: pymatgen.

Every tolerance is passed: pymatgen's defaults have changed over the years.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

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

# The matcher may take hours on large cells with many equal atoms.
TIME_LIMIT_S = 60.0


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


class Crystal:
    """A structure to be compared with many others: its primitive, Niggli-reduced cell is found once, when asked for."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure

    @cached_property
    def reduced(self) -> Structure:
        """The cell that StructureMatcher would reduce the structure to; raises whatever pymatgen does."""
        return self.structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()


def is_same(one: Crystal, other: Crystal) -> bool:
    """Return `IDENTITY_MATCHER.fit(one.structure, other.structure)`, without reducing either cell again."""
    # A matcher that tries no supercells and no subsets tells cells of different size apart; so it need not be asked.
    if len(one.reduced) != len(other.reduced):
        return False
    return IDENTITY_MATCHER.fit(one.reduced, other.reduced, skip_structure_reduction=True)


def group_by_formula(structures: Iterable[tuple[str, Structure]]) -> dict[str, list[Crystal]]:
    """Return crystals by the reduced formula they come with, order kept: only within it can two be the same."""
    groups: dict[str, list[Crystal]] = defaultdict(list)
    for formula, structure in structures:
        groups[formula].append(Crystal(structure))
    return dict(groups)


def matches_any(crystal: Crystal, others: Iterable[Crystal]) -> bool:
    """Return whether the crystal is the same as at least one of the others."""
    return any(is_same(crystal, other) for other in others)
