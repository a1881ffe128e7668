"""Rewards of generated crystals: terms are functions of a batch of answers, and the config combines them.

Needs: numpy, ase, pymatgen, smact; potentials are passed in. presets.py defines the config's options, docs/rewards.md
explains the presets.

The paper's reward (sections 4 and 5) is the term `energy` alone. A potential may give extremely low energies to
unphysical structures, so terms are clipped or bounded, and clipped values are counted. Too many failures of a potential
stop the run.
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
# Order of m-3m.
_LARGEST_POINT_GROUP = 48
# StructureMatcher's `stol`: no match has a larger RMSD.
_WORST_RMSD = 0.5


class RewardPotentialError(RuntimeError):
    """A reward potential failed on too many crystals, so that rewards are meaningless."""


@dataclass
class RewardContext:
    """Data that terms use besides the answers: potentials, hulls, training crystals, and recent answers.

    `potentials` by name, the first potential first; `hull_energies_ev_per_atom` by potential and prompted formula;
    `training` by formula; `left_out`, also by formula, holds training crystals that the config leaves out: they count
    as known for novelty only. `recent` holds packing fingerprints.
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
    """Parsed completions with their prompted formulas, and cached energies and relaxations that terms share."""

    def __init__(
        self,
        completions: Sequence[str],
        prompt_formulas: Sequence[str],
        context: RewardContext,
        is_cut: Sequence[bool] | None = None,
    ) -> None:
        self.prompt_formulas, self.context = list(prompt_formulas), context
        self.is_cut = np.zeros(len(completions), dtype=bool) if is_cut is None else np.array(is_cut, dtype=bool)
        # A completion cut at the token limit does not count as a crystal, even if it can be parsed.
        self.crystals = [
            None if cut else parse_crystal(text, context.form).columns
            for text, cut in zip(completions, self.is_cut, strict=True)
        ]
        self.is_crystal = np.array([c is not None for c in self.crystals], dtype=bool)
        self.is_coincident = np.array([c is not None and has_coincident_atoms(c) for c in self.crystals], dtype=bool)
        formulas = [None if c is None else reduced_formula(c["atomic_numbers"]) for c in self.crystals]
        # An answer is a crystal with the prompted formula.
        self.is_answer = np.array(
            [f is not None and f == p for f, p in zip(formulas, prompt_formulas, strict=True)], bool
        )
        self._packings: dict[int, np.ndarray] = {}
        self._energies: dict[str, dict[int, float]] = {}
        self._relaxed: dict[tuple[str, int], dict[int, BriefRelaxation]] = {}

    def __len__(self) -> int:
        return len(self.crystals)

    def crystal(self, i: int) -> Mapping:
        """Return the crystal of completion i, which must be a crystal."""
        crystal = self.crystals[i]
        assert crystal is not None, i
        return crystal

    @cached_property
    def is_sound(self) -> np.ndarray:
        """Which crystals have no two atoms closer than half the sum of their covalent radii (the paper's validity).

        Potentials are not trained on shorter distances, and their energies are arbitrary there.
        """
        sound = [c is not None and structure_valid_paper(c) for c in self.crystals]
        return np.array(sound, dtype=bool) & ~self.is_coincident

    def is_covered(self, potential: str | None = None) -> np.ndarray:
        """Return which crystals (n,) have only elements that the potential was trained on; others have no energy."""
        known = self.context.potentials[potential or self.context.first_potential].covered_atomic_numbers
        return np.array([c is not None and known.issuperset(c["atomic_numbers"]) for c in self.crystals], dtype=bool)

    def energies(self, which: np.ndarray, potential: str | None = None) -> np.ndarray:
        """Return eV/atom of the unrelaxed crystals marked in `which` (n,); NaN elsewhere and if the potential failed.

        Crystals with an element that the potential was not trained on are NaN, but do not count as its failures.
        """
        name = potential or self.context.first_potential
        which = which & self.is_covered(name)
        cached = self._energies.setdefault(name, {})
        missing = [i for i in np.flatnonzero(which).tolist() if i not in cached]
        energies = energies_of(self.context.potentials[name], [to_atoms(self.crystal(i)) for i in missing])
        self._check_failures(name, energies)
        cached |= dict(zip(missing, energies, strict=True))
        return np.array([cached[i] if which[i] else math.nan for i in range(len(self))])

    def packing(self, i: int) -> np.ndarray:
        """Return the packing fingerprint (58,) of crystal i."""
        if i not in self._packings:
            self._packings[i] = packing_fingerprint(self.crystal(i))
        return self._packings[i]

    def relaxed(self, which: np.ndarray, n_steps: int) -> dict[int, BriefRelaxation]:
        """Return the marked crystals by index, after at most n_steps steps with the first potential.

        The energy is NaN in the same cases as in `energies`.
        """
        name = self.context.first_potential
        cached = self._relaxed.setdefault((name, n_steps), {})
        for i in np.flatnonzero(which & ~self.is_covered(name)).tolist():
            cached[i] = BriefRelaxation(to_atoms(self.crystal(i)))
        missing = [i for i in np.flatnonzero(which).tolist() if i not in cached]
        cells = [to_atoms(self.crystal(i)) for i in missing]
        relaxations = relax_briefly(self.context.potentials[name], cells, n_steps)
        self._check_failures(name, [relaxation.energy_ev_per_atom for relaxation in relaxations])
        cached |= dict(zip(missing, relaxations, strict=True))
        return cached

    def _check_failures(self, name: str, energies: Sequence[float]) -> None:
        failed = sum(not math.isfinite(energy) for energy in energies)
        if energies and failed / len(energies) > self.context.max_failure_share:
            raise RewardPotentialError(
                f"{self.context.potentials[name].name} failed on {failed} of {len(energies)} crystals, more than "
                f"grpo.max_failure_share ({self.context.max_failure_share:g}); find the cause in the log before "
                "you continue training"
            )


@dataclass(frozen=True)
class TermValues:
    """Values (n,) of one term before weighting, which of them were clipped, and for which the potential failed."""

    values: np.ndarray
    clipped: np.ndarray
    failed: np.ndarray


def _plain(values: np.ndarray) -> TermValues:
    none_marked = np.zeros(len(values), dtype=bool)
    return TermValues(np.asarray(values, dtype=float), none_marked, none_marked)


def energy(batch: Batch, *, no_crystal: float) -> TermValues:
    """Minus the energy (eV/atom) of an unrelaxed crystal of any formula, else `no_crystal`; unbounded. Source: paper.

    Coincident atoms, for which CHGNet returns no energy, count as infinite energy. The same holds for crystals on which
    the potential fails or with an element that it was not trained on.
    """
    energies = batch.energies(batch.is_crystal & ~batch.is_coincident)
    failed = batch.is_crystal & ~batch.is_coincident & ~np.isfinite(energies)
    values = np.where(batch.is_coincident | failed, -math.inf, -energies)
    return TermValues(np.where(batch.is_crystal, values, no_crystal), np.zeros(len(batch), dtype=bool), failed)


def formula_match(batch: Batch) -> TermValues:
    """1 for a crystal of the prompted reduced formula, else 0. Source: this project."""
    return _plain(batch.is_answer)


def validity(batch: Batch) -> TermValues:
    """0.5 for valid distances (the paper, 5.2) plus 0.5 for valid composition (smact14, CDVAE); 0 if not an answer."""
    pairs = zip(batch.crystals, batch.is_answer, strict=True)
    valid_compositions = [
        float(bool(is_answer and c and composition_valid(c["atomic_numbers"]))) for c, is_answer in pairs
    ]
    return _plain((batch.is_sound + np.array(valid_compositions)) / 2 * batch.is_answer)


def e_hull(batch: Batch, *, n_steps: int, **shape) -> TermValues:
    """`hull_shape` of the energy above the hull, of the unrelaxed answer or after n_steps relaxation steps.

    0 to 1, or eV/atom if the shape is linear. Source: the paper's Future Work; the shape is of this project.
    """
    return _of_hull(batch, None, n_steps, **shape)


def ensemble(batch: Batch, *, potential: str, model: str | None, **shape) -> TermValues:
    """Minimum of `e_hull` under the first and a second potential, each with its own hull. Source: this project."""
    first = _of_hull(batch, None, 0, **shape)
    second = _of_hull(batch, name_in_rows(potential, model), 0, **shape)
    lower = np.minimum(first.values, second.values)
    return TermValues(lower, first.clipped | second.clipped, first.failed | second.failed)


def _of_hull(batch: Batch, potential: str | None, n_steps: int, **shape) -> TermValues:
    """Return the shaped energy above the hull; the worst value for non-answers, invalid distances and failures."""
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
    """Return the values (n,) of energies ΔE above the hull (n,), and which of them are implausibly low (n,).

    bounded: 1 up to the threshold, then width / (width + ΔE − threshold). Energies below the threshold are not rewarded
    further, all prompts have the same scale, and the slope is nonzero for poor answers. linear: −ΔE, unbounded.
    Implausibly low and non-finite energies have the worst value (0 or −inf).
    """
    implausible = above_ev_per_atom < implausible_ev_per_atom
    if shape == "linear":
        values, worst = -above_ev_per_atom, -math.inf
    else:
        values = width_ev_per_atom / (width_ev_per_atom + np.maximum(above_ev_per_atom - threshold_ev_per_atom, 0.0))
        worst = 0.0
    return np.where(implausible | ~np.isfinite(above_ev_per_atom), worst, values), implausible


def relaxed_match(batch: Batch, *, n_steps: int) -> TermValues:
    """1 − RMSD / 0.5 (normalised, StructureMatcher) between an answer and itself after n_steps steps; 0 if no match.

    0 to 1. Source: the match rate of Table 1, with its tolerances. Costs n_steps evaluations with forces.
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

    0 to 1. If the stable crystal of a prompt is known, this estimates without a relaxation whether the answer would
    relax to it. Source: this project.
    """
    values = np.zeros(len(batch))
    for i in np.flatnonzero(batch.is_answer & batch.is_sound).tolist():
        for known in batch.context.training.get(batch.prompt_formulas[i], []):
            distance = packing_distance(batch.packing(i), _packing_of(known))
            values[i] = max(values[i], 1.0 - distance / reach)
    return _plain(values)


def low_symmetry(batch: Batch, *, tolerance_ang: float) -> TermValues:
    """1 − ln(n) / ln 48 with n rotations of the unrelaxed answer within tolerance_ang; 0 for invalid distances.

    1 for P1, 0 for full cubic symmetry. A relaxation preserves symmetry, so a symmetric structure that is not a minimum
    ends on a saddle point, while symmetric minima are also reached from asymmetric structures. Source: this project.
    """
    values = np.zeros(len(batch))
    for i in np.flatnonzero(batch.is_answer & batch.is_sound).tolist():
        crystal = batch.crystal(i)
        lattice_and_coords = np.reshape(crystal["lattice_ang"], (3, 3)), np.reshape(crystal["frac_coords"], (-1, 3))
        try:
            n_rotations = n_point_operations(*lattice_and_coords, crystal["atomic_numbers"], tolerance_ang)
        except ValueError:  # the cell cannot be reduced: the value stays 0
            continue
        values[i] = 1.0 - math.log(n_rotations) / math.log(_LARGEST_POINT_GROUP)
    return _plain(values)


def _packing_of(crystal: Crystal) -> np.ndarray:
    """Return the packing fingerprint of a training crystal, computed on first use."""
    if crystal.packing is None:
        crystal.packing = packing_fingerprint(from_structure(crystal.structure))
    return crystal.packing


def _closeness(first: Structure, second: Structure) -> float:
    """Return 1 − RMSD / 0.5 of two structures; 0 if they do not match or the matcher fails."""
    try:
        with time_limit(_MATCHING_LIMIT_S):
            result = match(first, second)
    except (TimeLimitError, Exception):  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
        return 0.0
    return 1.0 - result.rmsd_norm / _WORST_RMSD if result.matched and result.rmsd_norm is not None else 0.0


def diversity(batch: Batch, *, n_recent: int) -> TermValues:
    """1 − the share of other answers with the same packing, averaged over its group and the last n_recent answers.

    0 to 1; 0 if not an answer. Recent answers are mostly of other prompts, and detect a policy that packs all crystals
    alike. Source: this project; the packing fingerprint is in packing.py.
    """
    values, answers = np.zeros(len(batch)), np.flatnonzero(batch.is_answer & ~batch.is_coincident)
    if not len(answers):
        return _plain(values)
    fingerprints = np.array([batch.packing(i) for i in answers.tolist()])
    formulas = np.array(batch.prompt_formulas, dtype=object)[answers]
    in_group = formulas[:, None] == formulas[None, :]
    is_same = same_packing(fingerprints, fingerprints) & in_group
    share_in_group = (is_same.sum(axis=1) - 1) / np.maximum(in_group.sum(axis=1) - 1, 1)
    recent = batch.context.recent
    share_in_recent = same_packing(fingerprints, np.array(recent)).mean(axis=1) if recent and n_recent else 0.0
    values[answers] = 1.0 - (share_in_group + share_in_recent) / 2
    recent.extend(fingerprints)
    while len(recent) > n_recent:
        recent.popleft()
    return _plain(values)


def novelty(batch: Batch) -> TermValues:
    """1 for an answer that matches no training crystal (StructureMatcher, as in S.U.N.), else 0; docs/metrics.md."""
    values = np.zeros(len(batch))
    for i in np.flatnonzero(batch.is_answer & batch.is_sound).tolist():
        formula, context = batch.prompt_formulas[i], batch.context
        known = [*context.training.get(formula, []), *context.left_out.get(formula, [])]
        try:
            with time_limit(_MATCHING_LIMIT_S):
                values[i] = not matches_any(Crystal(to_structure(batch.crystal(i))), known)
        except (TimeLimitError, Exception):  # noqa: BLE001  if the matcher fails, the answer is not novel
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
    """Rewards (n,) of a batch, the reward of an unparseable completion, and the clipped, unweighted terms."""

    rewards: np.ndarray
    reward_without_crystal: float
    batch: Batch
    terms: Mapping[str, TermValues]
    wall_time_s: Mapping[str, float]

    def summary(self) -> dict[str, float]:
        """Return the values that are logged at every step; the denominator of every share is all completions."""
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
        """Which unparseable completions (n,) have a higher reward than some answer in their group."""
        formulas = np.array(self.batch.prompt_formulas, dtype=object)
        lowest = {f: self.rewards[(formulas == f) & self.batch.is_answer].min(initial=math.inf) for f in set(formulas)}
        is_above = self.rewards > np.array([lowest[f] for f in formulas])
        return ~self.batch.is_crystal & is_above


class Reward:
    """A weighted sum of terms. Its only state between calls is the recent answers."""

    def __init__(self, terms: Sequence[RewardTerm], context: RewardContext) -> None:
        if not terms:
            raise ValueError("a reward needs at least one term")
        self.terms, self.context = list(terms), context

    def score(
        self, completions: Sequence[str], prompt_formulas: Sequence[str], is_cut: Sequence[bool] | None = None
    ) -> Scores:
        """Return the rewards of completions; RewardPotentialError if a potential fails on too many crystals.

        `is_cut` (n,) marks completions that were cut at the token limit; they are rewarded like unparseable ones.
        """
        started = time.perf_counter()
        batch = Batch(completions, prompt_formulas, self.context, is_cut)
        wall_time_s, terms = {"parse": time.perf_counter() - started}, {}
        for term in self.terms:
            started = time.perf_counter()
            terms[term.name] = _clip(TERMS[term.name](batch, **term.options), term.clip, batch.is_crystal)
            wall_time_s[term.name] = time.perf_counter() - started
        rewards = sum((term.weight * terms[term.name].values for term in self.terms), np.zeros(len(batch)))
        without_crystal = sum(term.weight * term.value_without_crystal for term in self.terms)
        return Scores(rewards, float(without_crystal), batch, terms, wall_time_s)


def _clip(term: TermValues, clip: tuple[float, float] | None, is_crystal: np.ndarray) -> TermValues:
    """Return the term with clipped values; finite values of unparseable completions are neither clipped nor counted."""
    if clip is None:
        return term
    values = np.where(is_crystal | np.isinf(term.values), np.clip(term.values, *clip), term.values)
    return TermValues(values, term.clipped | (is_crystal & (values != term.values)), term.failed)
