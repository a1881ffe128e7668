"""Structure matching for the match rate and RMSD, uniqueness and novelty.

Needs: numpy, pymatgen.

All tolerances are explicit, because pymatgen's defaults have changed between versions.
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

_COMMON_SETTINGS = {
    "primitive_cell": True,
    "scale": True,
    "attempt_supercell": False,
    "allow_subset": False,
    "supercell_size": "num_sites",
}
# Compares a generated structure with its relaxed one: Xie et al. 2021, Miller et al. 2024.
MATCH_RATE_MATCHER = StructureMatcher(
    ltol=0.3, stol=0.5, angle_tol=10, comparator=SpeciesComparator(), **_COMMON_SETTINGS
)
# Compares samples with each other and with the training set: pymatgen's defaults of 2026.
IDENTITY_MATCHER = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5, comparator=SpeciesComparator(), **_COMMON_SETTINGS)

# Per pair: the matcher may take hours on large cells with many atoms of one element.
TIME_LIMIT_S = 60.0
# Comparisons of one crystal with others stop after this number of failures.
MAX_FAILURES = 3

# For groups up to this size all pairs go to the matcher: screening them would take as long.
_MAX_UNSCREENED = 2

# A cell with volume / (a b c) below this is treated as flat: its volume is only rounding error.
_FLAT = 1e-10


@dataclass(frozen=True)
class Match:
    """Whether two structures match, and if so their RMSD: normalised by (V/N)^(1/3), and in Å."""

    matched: bool
    rmsd_norm: float | None = None
    rmsd_ang: float | None = None


def match(generated: Structure, relaxed: Structure) -> Match:
    """Match a generated structure with its relaxed one; the RMSD in Å uses the mean of their volumes per atom.

    Raises whatever pymatgen raises on a degenerate cell.
    """
    rms = MATCH_RATE_MATCHER.get_rms_dist(generated, relaxed)
    if rms is None:
        return Match(False)
    rmsd_norm = float(rms[0])
    volume_per_atom_ang3 = (generated.volume / len(generated) + relaxed.volume / len(relaxed)) / 2
    return Match(True, rmsd_norm, rmsd_norm * volume_per_atom_ang3 ** (1 / 3))


class ComparisonError(RuntimeError):
    """No match was found for a crystal, and the matcher failed on at least one of the comparisons."""


class Crystal:
    """A structure that is compared with many others; its primitive Niggli cell is computed once, on first use."""

    def __init__(self, structure: Structure, structure_id: str | None = None) -> None:
        self.structure = structure
        self.structure_id = structure_id
        # Packing fingerprint (58,), None until a caller computes it.
        self.packing: np.ndarray | None = None

    @cached_property
    def reduced(self) -> Structure:
        """The reduced cell that StructureMatcher would compute for the structure.

        Raises ValueError if the cell has no volume, and whatever pymatgen raises.
        """
        lattice = self.structure.lattice
        if not abs(np.linalg.det(lattice.matrix)) > _FLAT * np.prod(lattice.lengths):
            raise ValueError(f"the cell {lattice.matrix.tolist()} Å has no volume")
        return self.structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()

    @cached_property
    def cell(self) -> Cell:
        """The reduced cell as arrays, for match_screen; raises what `reduced` raises."""
        kinds = [_KINDS.setdefault(site.species_string, len(_KINDS)) for site in self.reduced]
        return cell_of(self.reduced.lattice.matrix, self.reduced.frac_coords, np.array(kinds))


# Integer label of each species seen so far.
_KINDS: dict[str, int] = {}


class _Stack:
    """Reduced cells with the same species and counts, stored as rows of arrays that grow by doubling."""

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
        if n <= _MAX_UNSCREENED:
            yield from list(self.crystals)
            return
        # Screen the most similar cells first, in small batches, so that a match is found early.
        order = np.argsort(np.abs(columns["profile"][:n] - cell.profile).sum(axis=1), kind="stable")
        start, size = 0, 8
        while start < n:
            batch = order[start : start + size]
            lengths, angles_deg, coords = (columns[name][batch] for name in ("lengths", "angles_deg", "coords"))
            tolerances = IDENTITY_MATCHER.ltol, IDENTITY_MATCHER.stol, IDENTITY_MATCHER.angle_tol
            distances = misfits(cell, lengths, angles_deg, coords, *tolerances)
            ranks = np.argsort(distances, kind="stable")
            yield from (self.crystals[i] for i in batch[ranks[distances[ranks] < IMPOSSIBLE]])
            start, size = start + size, min(4 * size, 512)


class CrystalGroup:
    """Crystals to compare others with, in the order they were added.

    Each cell is reduced at the first comparison, within limit_s seconds. `not_reduced` lists the crystals whose
    reduction failed, with the error; they never match.
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
        """Yield the crystals of the group that may match `crystal`, the most similar first.

        Raises what the reduction of `crystal` raises.
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
    """Return compute(); TimeoutError after limit_s seconds. With None, an enclosing time limit still applies."""
    if limit_s is None:
        return compute()
    try:
        with time_limit(limit_s):
            return compute()
    except TimeLimitError as error:
        raise TimeoutError(str(error)) from None


def find_cell(crystal: Crystal, limit_s: float | None = None) -> Cell:
    """Return the crystal's reduced cell, computed within limit_s seconds; raises what `Crystal.reduced` raises."""
    return _within(limit_s, lambda: crystal.cell)


def is_same(first: Crystal, second: Crystal) -> bool:
    """Return `IDENTITY_MATCHER.fit(one.structure, other.structure)`, without reducing the cells again."""
    # Without supercells and subsets, cells with different numbers of atoms never match.
    if len(first.reduced) != len(second.reduced):
        return False
    return IDENTITY_MATCHER.fit(first.reduced, second.reduced, skip_structure_reduction=True)


def group_by_formula(
    structures: Iterable[tuple[str, Structure] | tuple[str, Structure, str]], limit_s: float | None = None
) -> dict[str, CrystalGroup]:
    """Return crystals by reduced formula, in their order: only crystals of one formula can match.

    An item is (formula, structure) or (formula, structure, structure_id).
    """
    groups: dict[str, CrystalGroup] = {}
    for formula, *structure in structures:
        groups.setdefault(formula, CrystalGroup(limit_s=limit_s)).append(Crystal(*structure))
    return groups


def find_matches(
    crystal: Crystal, others: CrystalGroup, limit_s: float | None = None
) -> Iterator[tuple[Crystal, str | None]]:
    """Yield (other, None) for each crystal of the group that matches, and (other, error) where the matcher failed.

    limit_s applies to the reduction of `crystal` and to each pair.
    """
    find_cell(crystal, limit_s)
    for other in others.candidates(crystal):
        try:
            if _within(limit_s, lambda other=other: is_same(crystal, other)):
                yield other, None
        except Exception as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
            yield other, f"{type(error).__name__}: {error}"


def matches_any(crystal: Crystal, others: Iterable[Crystal], limit_s: float | None = None) -> bool:
    """Return whether the crystal matches at least one of the others.

    Raises ComparisonError if none matches and the matcher failed on a pair, and what the reduction of `crystal` raises.
    """
    failures = []
    group = others if isinstance(others, CrystalGroup) else CrystalGroup(others, limit_s)
    for other, error in find_matches(crystal, group, limit_s):
        if error is None:
            return True
        failures.append(f"with {other.structure_id or 'an earlier sample'}: {error}")
        if len(failures) == MAX_FAILURES:
            break
    if failures:
        raise ComparisonError("; ".join(failures))
    return False
