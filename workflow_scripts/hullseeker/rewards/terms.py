"""Rewards of generated crystals: named terms, plain functions of a batch of answers, composed by the config.

Needs: numpy, ase, pymatgen, smact; potentials handed in. What the config may say stands in presets.py, and why
the presets are what they are in docs/rewards.md.

The paper's reward (section 4 and 5) is the term `energy` alone. An energy far outside what the potential knows would
pay for exploding structures, so terms are clipped or bounded, and every clip is counted. A potential that fails is
never a reward: too many failures stop the run.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from pymatgen.core import Structure

from hullseeker.language_model.crystal_text import TextFormat, parse_crystal
from hullseeker.metrics.matching import Crystal, match, matches_any
from hullseeker.metrics.validity import composition_valid, structure_valid_paper
from hullseeker.potentials.interface import Potential
from hullseeker.potentials.registry import name_in_rows
from hullseeker.relaxation.brief import BriefRelaxation, energies_of, relax_briefly
from hullseeker.rewards.packing import packing_distance, packing_fingerprint, same_packing
from hullseeker.rewards.point_symmetry import n_point_operations
from hullseeker.rewards.presets import RewardTerm
from hullseeker.runtime.time_limits import TimeLimitError, time_limit
from hullseeker.tables.structures import (
    from_atoms,
    from_structure,
    has_coincident_atoms,
    reduced_formula,
    to_atoms,
    to_structure,
)

_MATCHING_LIMIT_S = 5.0
# Of m-3m.
_LARGEST_POINT_GROUP = 48
# StructureMatcher's `stol`: no match has a larger RMSD.
_WORST_RMSD = 0.5


class RewardPotentialError(RuntimeError):
    """A reward potential failed on too many crystals: an infrastructure failure, never a reward."""


@dataclass
class RewardContext:
    """What terms know beside the answers: potentials, hulls, training crystals, and what was sampled before.

    `potentials` by their own names, the first one first; `hull_energies_ev_per_atom` by potential and prompted
    formula; `training` by formula, and those of it that the config leaves out: they are known, nothing to learn.
    """

    form: TextFormat
    potentials: Mapping[str, Potential]
    hull_energies_ev_per_atom: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    training: Mapping[str, Sequence[Crystal]] = field(default_factory=dict)
    recent: deque = field(default_factory=deque)
    left_out: Mapping[str, Sequence[Crystal]] = field(default_factory=dict)
    max_failure_share: float = field(kw_only=True)

    @property
    def first_potential(self) -> str:
        return next(iter(self.potentials))


class Batch:
    """Completions and the formulas they were asked for, parsed once; energies and relaxations that terms share."""

    def __init__(
        self,
        completions: Sequence[str],
        prompt_formulas: Sequence[str],
        context: RewardContext,
        is_cut: Sequence[bool] | None = None,
    ) -> None:
        self.prompt_formulas, self.context = list(prompt_formulas), context
        self.is_cut = np.zeros(len(completions), dtype=bool) if is_cut is None else np.array(is_cut, dtype=bool)
        # What was cut is no crystal, though what there is of it may read as one.
        self.crystals = [
            None if cut else parse_crystal(text, context.form).columns
            for text, cut in zip(completions, self.is_cut, strict=True)
        ]
        self.is_crystal = np.array([c is not None for c in self.crystals], dtype=bool)
        self.is_coincident = np.array([c is not None and has_coincident_atoms(c) for c in self.crystals], dtype=bool)
        found = [None if c is None else reduced_formula(c["atomic_numbers"]) for c in self.crystals]
        # An answer: a crystal of the prompted formula.
        self.is_answer = np.array([f is not None and f == p for f, p in zip(found, prompt_formulas, strict=True)], bool)
        self._packings: dict[int, np.ndarray] = {}
        self._energies: dict[str, dict[int, float]] = {}
        self._relaxed: dict[tuple[str, int], dict[int, BriefRelaxation]] = {}

    def __len__(self) -> int:
        return len(self.crystals)

    def crystal(self, i: int) -> Mapping:
        """Return the crystal of answer i, which must be one."""
        found = self.crystals[i]
        assert found is not None, i
        return found

    @cached_property
    def is_sound(self) -> np.ndarray:
        """Which crystals have no two atoms nearer than half the sum of their covalent radii (the paper's validity).

        Nearer, a potential has seen nothing, and its energy may be anything.
        """
        sound = [c is not None and structure_valid_paper(c) for c in self.crystals]
        return np.array(sound, dtype=bool) & ~self.is_coincident

    def is_covered(self, potential: str | None = None) -> np.ndarray:
        """Which crystals (n,) hold only elements that the potential was trained on; of others it has no number."""
        known = self.context.potentials[potential or self.context.first_potential].covered_atomic_numbers
        return np.array([c is not None and known.issuperset(c["atomic_numbers"]) for c in self.crystals], dtype=bool)

    def energies(self, which: np.ndarray, potential: str | None = None) -> np.ndarray:
        """Return eV/atom of the crystals marked in `which` (n,) as they stand, NaN elsewhere and where it failed.

        An element that the potential was not trained on is the crystal's failure, not the potential's.
        """
        name = potential or self.context.first_potential
        which = which & self.is_covered(name)
        known = self._energies.setdefault(name, {})
        missing = [i for i in np.flatnonzero(which).tolist() if i not in known]
        found = energies_of(self.context.potentials[name], [to_atoms(self.crystal(i)) for i in missing])
        self._stop_if_dying(name, found)
        known |= dict(zip(missing, found, strict=True))
        return np.array([known[i] if which[i] else math.nan for i in range(len(self))])

    def packing(self, i: int) -> np.ndarray:
        """Return the packing fingerprint (58,) of crystal i."""
        if i not in self._packings:
            self._packings[i] = packing_fingerprint(self.crystal(i))
        return self._packings[i]

    def relaxed(self, which: np.ndarray, n_steps: int) -> dict[int, BriefRelaxation]:
        """Return the marked crystals by index, after at most n_steps steps with the first potential.

        The energy is NaN where that of `energies` would be.
        """
        name = self.context.first_potential
        known = self._relaxed.setdefault((name, n_steps), {})
        for i in np.flatnonzero(which & ~self.is_covered(name)).tolist():
            known[i] = BriefRelaxation(to_atoms(self.crystal(i)))
        missing = [i for i in np.flatnonzero(which).tolist() if i not in known]
        cells = [to_atoms(self.crystal(i)) for i in missing]
        found = relax_briefly(self.context.potentials[name], cells, n_steps)
        self._stop_if_dying(name, [one.energy_ev_per_atom for one in found])
        known |= dict(zip(missing, found, strict=True))
        return known

    def _stop_if_dying(self, name: str, energies: Sequence[float]) -> None:
        failed = sum(not math.isfinite(energy) for energy in energies)
        if energies and failed / len(energies) > self.context.max_failure_share:
            raise RewardPotentialError(
                f"{self.context.potentials[name].name} failed on {failed} of {len(energies)} crystals, more than "
                f"grpo.max_failure_share ({self.context.max_failure_share:g}); look at its error in the log before "
                "training goes on"
            )


@dataclass(frozen=True)
class TermValues:
    """Values (n,) of one term before its weight; where a bound or clip fired; where a potential had no number."""

    values: np.ndarray
    clipped: np.ndarray
    failed: np.ndarray


def _plain(values: np.ndarray) -> TermValues:
    nothing = np.zeros(len(values), dtype=bool)
    return TermValues(np.asarray(values, dtype=float), nothing, nothing)


def energy(batch: Batch, *, no_crystal: float) -> TermValues:
    """Minus the energy (eV/atom) as it stands, of any formula; `no_crystal` for none. Unbounded. Source: the paper.

    Two atoms on one site are the limit of two that overlap: CHGNet has no number for them, and the energy counts as
    infinite. A crystal on which the potential fails, or with an element that it was not trained on, counts as badly.
    """
    energies = batch.energies(batch.is_crystal & ~batch.is_coincident)
    failed = batch.is_crystal & ~batch.is_coincident & ~np.isfinite(energies)
    values = np.where(batch.is_coincident | failed, -math.inf, -energies)
    return TermValues(np.where(batch.is_crystal, values, no_crystal), np.zeros(len(batch), dtype=bool), failed)


def formula_match(batch: Batch) -> TermValues:
    """1 for a crystal of the prompted reduced formula, else 0. Source: ours."""
    return _plain(batch.is_answer)


def validity(batch: Batch) -> TermValues:
    """Half for valid distances (the paper, 5.2), half for a valid composition (smact14, CDVAE); 0 for no answer."""
    pairs = zip(batch.crystals, batch.is_answer, strict=True)
    right = [float(bool(answers and c and composition_valid(c["atomic_numbers"]))) for c, answers in pairs]
    return _plain((batch.is_sound + np.array(right)) / 2 * batch.is_answer)


def e_hull(batch: Batch, *, n_steps: int, **shape) -> TermValues:
    """Shape of the energy above the hull of the prompted formula, as written or after n_steps steps; `hull_shape`.

    0 to 1, or eV/atom where the shape is linear. Source: the paper's Future Work; the shape is ours.
    """
    return _of_hull(batch, None, n_steps, **shape)


def ensemble(batch: Batch, *, potential: str, model: str | None, **shape) -> TermValues:
    """The lower of `e_hull` under the first and under a second potential, each on its own hull. Source: ours."""
    first = _of_hull(batch, None, 0, **shape)
    second = _of_hull(batch, name_in_rows(potential, model), 0, **shape)
    lower = np.minimum(first.values, second.values)
    return TermValues(lower, first.clipped | second.clipped, first.failed | second.failed)


def _of_hull(batch: Batch, potential: str | None, n_steps: int, **shape) -> TermValues:
    """Return the shaped energy above the hull; the worst value for no answer, unsound distances and failures."""
    judged = batch.is_answer & batch.is_sound
    if n_steps:
        relaxed = batch.relaxed(judged, n_steps)
        energies = np.array([relaxed[i].energy_ev_per_atom if judged[i] else math.nan for i in range(len(batch))])
    else:
        energies = batch.energies(judged, potential)
    hulls = batch.context.hull_energies_ev_per_atom.get(potential or batch.context.first_potential, {})
    above = energies - np.array([hulls.get(formula, math.nan) for formula in batch.prompt_formulas])
    values, implausible = hull_shape(above, **shape)
    return TermValues(values, judged & implausible, judged & ~np.isfinite(above))


def hull_shape(
    above_ev_per_atom: np.ndarray,
    *,
    shape: str,
    threshold_ev_per_atom: float,
    width_ev_per_atom: float,
    implausible_ev_per_atom: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the value of energies above the hull (n,), and which of them are implausibly low (n,).

    bounded: 1 up to the threshold, then width / (width + ΔE − threshold), never quite 0: nothing is gained by pleasing
    the potential beyond what counts as stable, all prompts have one scale, a poor answer still has a slope to climb.
    linear: −ΔE, without bound. No crystal lies far below the hull: there, as where there is no number, the value is
    the worst (0, or −inf).
    """
    implausible = above_ev_per_atom < implausible_ev_per_atom
    if shape == "linear":
        values, worst = -above_ev_per_atom, -math.inf
    else:
        values = width_ev_per_atom / (width_ev_per_atom + np.maximum(above_ev_per_atom - threshold_ev_per_atom, 0.0))
        worst = 0.0
    return np.where(implausible | ~np.isfinite(above_ev_per_atom), worst, values), implausible


def relaxed_match(batch: Batch, *, n_steps: int) -> TermValues:
    """1 − RMSD / 0.5 of the crystal with itself after n_steps steps (normalised, StructureMatcher); 0 for no match.

    0 to 1. Source: the match rate of Table 1, its tolerances. Costs n_steps evaluations with forces.
    """
    judged = batch.is_answer & batch.is_sound
    relaxed, values, failed = batch.relaxed(judged, n_steps), np.zeros(len(batch)), np.zeros(len(batch), dtype=bool)
    for i in np.flatnonzero(judged).tolist():
        failed[i] = not math.isfinite(relaxed[i].energy_ev_per_atom)
        if not failed[i]:
            after = to_structure(from_atoms(relaxed[i].cell))
            values[i] = _closeness(to_structure(batch.crystal(i)), after)
    return TermValues(values, np.zeros(len(batch), dtype=bool), failed)


def known_match(batch: Batch, *, reach: float) -> TermValues:
    """1 − d / reach, at least 0, with d the packing distance to the nearest training crystal of the prompted formula.

    0 to 1. Where the stable crystal of a prompt is known, this says without a relaxation whether one would end there.
    Source: ours.
    """
    values = np.zeros(len(batch))
    for i in np.flatnonzero(batch.is_answer & batch.is_sound).tolist():
        for known in batch.context.training.get(batch.prompt_formulas[i], []):
            distance = packing_distance(batch.packing(i), _packing_of(known))
            values[i] = max(values[i], 1.0 - distance / reach)
    return _plain(values)


def low_symmetry(batch: Batch, *, tolerance_ang: float) -> TermValues:
    """1 − ln(number of rotations that keep it) / ln 48 of an answer as written, within tolerance_ang; 0 where unsound.

    1 for P1, 0 for a cubic crystal of full symmetry. A relaxation keeps every symmetry that it starts with, so a
    symmetric guess that is no minimum ends on a saddle point; a symmetric minimum is found without. Source: ours.
    """
    values = np.zeros(len(batch))
    for i in np.flatnonzero(batch.is_answer & batch.is_sound).tolist():
        crystal = batch.crystal(i)
        cell = np.reshape(crystal["lattice_ang"], (3, 3)), np.reshape(crystal["frac_coords"], (-1, 3))
        try:
            n = n_point_operations(*cell, crystal["atomic_numbers"], tolerance_ang)
        except ValueError:  # what cannot be judged is worth nothing
            continue
        values[i] = 1.0 - math.log(n) / math.log(_LARGEST_POINT_GROUP)
    return _plain(values)


def _packing_of(crystal: Crystal) -> np.ndarray:
    """Return the packing fingerprint of a training crystal, computed when it is first asked for."""
    if crystal.packing is None:
        crystal.packing = packing_fingerprint(from_structure(crystal.structure))
    return crystal.packing


def _closeness(one: Structure, other: Structure) -> float:
    """Return 1 − RMSD / 0.5 of two structures, 0 where they do not match; what cannot be compared does not match."""
    try:
        with time_limit(_MATCHING_LIMIT_S):
            found = match(one, other)
    except (TimeLimitError, Exception):  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
        return 0.0
    return 1.0 - found.rmsd_norm / _WORST_RMSD if found.matched and found.rmsd_norm is not None else 0.0


def diversity(batch: Batch, *, n_recent: int) -> TermValues:
    """1 − the share of other answers with the same packing, in its group and among the last n_recent ones, averaged.

    0 to 1; 0 for no answer. Recent answers are of other prompts: there it tells a policy that packs everything alike.
    Source: ours; the packing fingerprint stands in packing.py.
    """
    values, answers = np.zeros(len(batch)), np.flatnonzero(batch.is_answer & ~batch.is_coincident)
    if not len(answers):
        return _plain(values)
    prints = np.array([batch.packing(i) for i in answers.tolist()])
    formulas = np.array(batch.prompt_formulas, dtype=object)[answers]
    in_group = formulas[:, None] == formulas[None, :]
    same = same_packing(prints, prints) & in_group
    of_group = (same.sum(axis=1) - 1) / np.maximum(in_group.sum(axis=1) - 1, 1)
    recent = batch.context.recent
    of_recent = same_packing(prints, np.array(recent)).mean(axis=1) if recent and n_recent else 0.0
    values[answers] = 1.0 - (of_group + of_recent) / 2
    recent.extend(prints)
    while len(recent) > n_recent:
        recent.popleft()
    return _plain(values)


def novelty(batch: Batch) -> TermValues:
    """1 for an answer that no training crystal matches (StructureMatcher, as in S.U.N.), else 0; docs/metrics.md."""
    values = np.zeros(len(batch))
    for i in np.flatnonzero(batch.is_answer & batch.is_sound).tolist():
        formula, context = batch.prompt_formulas[i], batch.context
        known = [*context.training.get(formula, []), *context.left_out.get(formula, [])]
        try:
            with time_limit(_MATCHING_LIMIT_S):
                values[i] = not matches_any(Crystal(to_structure(batch.crystal(i))), known)
        except (TimeLimitError, Exception):  # noqa: BLE001  what cannot be compared is not called new
            continue
    return _plain(values)


TERMS: dict[str, Callable[..., TermValues]] = {
    "energy": energy,
    "formula_match": formula_match,
    "validity": validity,
    "e_hull": e_hull,
    "ensemble": ensemble,
    "relaxed_match": relaxed_match,
    "known_match": known_match,
    "low_symmetry": low_symmetry,
    "diversity": diversity,
    "novelty": novelty,
}


@dataclass(frozen=True)
class Scores:
    """Rewards (n,) of a batch, what an unparseable answer earns, and the terms behind both, clipped, not weighted."""

    rewards: np.ndarray
    reward_without_crystal: float
    batch: Batch
    terms: Mapping[str, TermValues]
    wall_time_s: Mapping[str, float]

    def summary(self) -> dict[str, float]:
        """Return what is logged at every step; all of the completions drawn are the denominator of every share."""
        clipped = np.any([term.clipped for term in self.terms.values()], axis=0)
        summary = {
            "parse_share": self.batch.is_crystal,
            "cut_share": self.batch.is_cut,
            "formula_match_share": self.batch.is_answer,
            "coincident_share": self.batch.is_coincident,
            "clipped_share": clipped,
            "silence_paid_share": self.unparseable_above_crystal,
            "below_silence_share": self.batch.is_answer & (self.rewards < self.reward_without_crystal),
        }
        for name, term in self.terms.items():
            summary[f"{name}_mean"] = term.values
            summary[f"{name}_clipped_share"] = term.clipped
            summary[f"{name}_failed_share"] = term.failed
        return {name: float(np.mean(values)) for name, values in summary.items()}

    @property
    def unparseable_above_crystal(self) -> np.ndarray:
        """Which unparseable answers (n,) earned more than some crystal of the formula in their group."""
        formulas = np.array(self.batch.prompt_formulas, dtype=object)
        lowest = {f: self.rewards[(formulas == f) & self.batch.is_answer].min(initial=math.inf) for f in set(formulas)}
        outdone = self.rewards > np.array([lowest[f] for f in formulas])
        return ~self.batch.is_crystal & outdone


class Reward:
    """A weighted sum of terms. It keeps the recent answers between calls, and nothing else."""

    def __init__(self, terms: Sequence[RewardTerm], context: RewardContext) -> None:
        if not terms:
            raise ValueError("a reward needs at least one term")
        self.terms, self.context = list(terms), context

    def score(
        self, completions: Sequence[str], prompt_formulas: Sequence[str], is_cut: Sequence[bool] | None = None
    ) -> Scores:
        """Return the rewards of completions; RewardPotentialError where a potential fails on too many crystals.

        `is_cut` (n,) marks those that the limit of tokens cut: they earn what no crystal earns.
        """
        started = time.perf_counter()
        batch = Batch(completions, prompt_formulas, self.context, is_cut)
        wall_time_s, found = {"parse": time.perf_counter() - started}, {}
        for term in self.terms:
            started = time.perf_counter()
            found[term.name] = _clip(TERMS[term.name](batch, **term.options), term.clip, batch.is_crystal)
            wall_time_s[term.name] = time.perf_counter() - started
        rewards = sum((term.weight * found[term.name].values for term in self.terms), np.zeros(len(batch)))
        without_crystal = sum(term.weight * term.value_without_crystal for term in self.terms)
        return Scores(rewards, float(without_crystal), batch, found, wall_time_s)


def _clip(term: TermValues, clip: tuple[float, float] | None, is_crystal: np.ndarray) -> TermValues:
    """Return the term with values clipped, and counted where they are a crystal's; a finite value of silence stays."""
    if clip is None:
        return term
    values = np.where(is_crystal | np.isinf(term.values), np.clip(term.values, *clip), term.values)
    return TermValues(values, term.clipped | (is_crystal & (values != term.values)), term.failed)
