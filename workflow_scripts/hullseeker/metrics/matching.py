"""Which structures are the same: match rate and RMSD, uniqueness, novelty.

Needs: numpy, pymatgen.

Every tolerance is passed: pymatgen's defaults have changed over the years.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pymatgen.analysis.structure_matcher import SpeciesComparator, StructureMatcher
from pymatgen.core import Structure

from hullseeker.metrics.match_screen import IMPOSSIBLE, Cell, cell_of, misfits
from hullseeker.runtime.time_limits import TimeLimitError, time_limit

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
# Of one crystal with many others: after so many comparisons that failed no other one is begun.
MOST_FAILURES = 3

# Among so few crystals the matcher is asked at once: ruling pairs out would take as long.
_FEW = 2

# A cell whose volume is a smaller share of the product of its lengths is flat: rounding alone gives it a volume.
_FLAT = 1e-10


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


class ComparisonError(RuntimeError):
    """A crystal that no other was found to match, where the matcher failed on one of them."""


class Crystal:
    """A structure to be compared with many others: its primitive, Niggli-reduced cell is found once, when asked for."""

    def __init__(self, structure: Structure, structure_id: str | None = None) -> None:
        self.structure = structure
        self.structure_id = structure_id
        # Its packing fingerprint (58,), for those who have computed it.
        self.packing: np.ndarray | None = None

    @cached_property
    def reduced(self) -> Structure:
        """The cell that StructureMatcher would reduce the structure to.

        ValueError where the cell has no volume; raises whatever else pymatgen does.
        """
        lattice = self.structure.lattice
        if not abs(np.linalg.det(lattice.matrix)) > _FLAT * np.prod(lattice.lengths):
            raise ValueError(f"the cell {lattice.matrix.tolist()} Å has no volume")
        return self.structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()

    @cached_property
    def cell(self) -> Cell:
        """The reduced cell as arrays, for match_screen; raises what `reduced` does."""
        kinds = [_KINDS.setdefault(site.species_string, len(_KINDS)) for site in self.reduced]
        return cell_of(self.reduced.lattice.matrix, self.reduced.frac_coords, np.array(kinds))


# A number for each species met.
_KINDS: dict[str, int] = {}


class _Stack:
    """Reduced cells of the same atoms, row by row in arrays that grow by doubling."""

    def __init__(self, first: Cell) -> None:
        self.crystals: list[Crystal] = []
        self._columns = {
            name: np.empty((8, *getattr(first, name).shape)) for name in ("profile", "lengths", "angles_deg", "coords")
        }

    def add(self, crystal: Crystal) -> None:
        n = len(self.crystals)
        for name, column in self._columns.items():
            if n == len(column):
                self._columns[name] = column = np.concatenate([column, np.empty_like(column)])
            column[n] = getattr(crystal.cell, name)
        self.crystals.append(crystal)

    def candidates(self, crystal: Crystal) -> Iterator[Crystal]:
        n, columns, cell = len(self.crystals), self._columns, crystal.cell
        if n <= _FEW:
            yield from list(self.crystals)
            return
        # The likeliest are looked at first, few at a time, so that a match is found early.
        order = np.argsort(np.abs(columns["profile"][:n] - cell.profile).sum(axis=1), kind="stable")
        start, size = 0, 8
        while start < n:
            part = order[start : start + size]
            lengths, angles_deg, coords = (columns[name][part] for name in ("lengths", "angles_deg", "coords"))
            tolerances = IDENTITY_MATCHER.ltol, IDENTITY_MATCHER.stol, IDENTITY_MATCHER.angle_tol
            found = misfits(cell, lengths, angles_deg, coords, *tolerances)
            ranks = np.argsort(found, kind="stable")
            yield from (self.crystals[i] for i in part[ranks[found[ranks] < IMPOSSIBLE]])
            start, size = start + size, min(4 * size, 512)


class CrystalGroup:
    """Crystals that others are compared with, in the order they came. `not_reduced` are those that never match.

    Each is reduced at the first comparison, within limit_s seconds.
    """

    def __init__(self, crystals: Iterable[Crystal] = (), limit_s: float | None = None) -> None:
        self.crystals = list(crystals)
        self.limit_s = limit_s
        self.not_reduced: list[tuple[Crystal, str]] = []
        self._stacks: dict[bytes, _Stack] = {}
        self._n_stacked = 0

    def __len__(self) -> int:
        return len(self.crystals)

    def __iter__(self) -> Iterator[Crystal]:
        return iter(self.crystals)

    def append(self, crystal: Crystal) -> None:
        self.crystals.append(crystal)

    def candidates(self, crystal: Crystal) -> Iterator[Crystal]:
        """Yield the group's crystals that the matcher may call the same as the crystal, likeliest first.

        Raises what the crystal's reduction does.
        """
        kinds = crystal.cell.kinds.tobytes()
        while self._n_stacked < len(self.crystals):
            self._stack(self.crystals[self._n_stacked])
            self._n_stacked += 1
        if kinds in self._stacks:
            yield from self._stacks[kinds].candidates(crystal)

    def _stack(self, crystal: Crystal) -> None:
        try:
            cell = find_cell(crystal, self.limit_s)
        except Exception as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
            self.not_reduced.append((crystal, f"{type(error).__name__}: {error}"))
        else:
            self._stacks.setdefault(cell.kinds.tobytes(), _Stack(cell)).add(crystal)


def _within(limit_s: float | None, compute):
    """Return compute(); TimeoutError where it takes longer. Without a limit, one set outside stays in force."""
    if limit_s is None:
        return compute()
    try:
        with time_limit(limit_s):
            return compute()
    except TimeLimitError as error:
        raise TimeoutError(str(error)) from None


def find_cell(crystal: Crystal, limit_s: float | None = None) -> Cell:
    """Return the crystal's reduced cell, found within limit_s seconds; raises what `Crystal.reduced` does."""
    return _within(limit_s, lambda: crystal.cell)


def is_same(one: Crystal, other: Crystal) -> bool:
    """Return `IDENTITY_MATCHER.fit(one.structure, other.structure)`, without reducing either cell again."""
    # A matcher that tries no supercells and no subsets tells cells of different size apart; so it need not be asked.
    if len(one.reduced) != len(other.reduced):
        return False
    return IDENTITY_MATCHER.fit(one.reduced, other.reduced, skip_structure_reduction=True)


def group_by_formula(
    structures: Iterable[tuple[str, Structure] | tuple[str, Structure, str]], limit_s: float | None = None
) -> dict[str, CrystalGroup]:
    """Return crystals by the reduced formula they come with, order kept: only within it can two be the same.

    An item is (formula, structure) or (formula, structure, structure_id).
    """
    groups: dict[str, CrystalGroup] = {}
    for formula, *structure in structures:
        groups.setdefault(formula, CrystalGroup(limit_s=limit_s)).append(Crystal(*structure))
    return groups


def find_matches(
    crystal: Crystal, others: CrystalGroup, limit_s: float | None = None
) -> Iterator[tuple[Crystal, str | None]]:
    """Yield (other, None) for each of the group that is_same says is the crystal; (other, error) where it fails.

    limit_s is for the crystal's own reduction and for each pair.
    """
    find_cell(crystal, limit_s)
    for other in others.candidates(crystal):
        try:
            if _within(limit_s, lambda other=other: is_same(crystal, other)):
                yield other, None
        except Exception as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
            yield other, f"{type(error).__name__}: {error}"


def matches_any(crystal: Crystal, others: Iterable[Crystal], limit_s: float | None = None) -> bool:
    """Return whether the crystal is the same as at least one of the others.

    ComparisonError where none matches and the matcher failed on one; raises what the crystal's own reduction does.
    """
    failures = []
    group = others if isinstance(others, CrystalGroup) else CrystalGroup(others, limit_s)
    for other, error in find_matches(crystal, group, limit_s):
        if error is None:
            return True
        failures.append(f"with {other.structure_id or 'an earlier sample'}: {error}")
        if len(failures) == MOST_FAILURES:
            break
    if failures:
        raise ComparisonError("; ".join(failures))
    return False
