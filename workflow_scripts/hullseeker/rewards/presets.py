"""Reward terms in the config: name, weight, clip and options, checked before anything is loaded.

Needs: the standard library. terms.py computes the terms; docs/rewards.md explains them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from hullseeker.potentials.registry import EVALUATORS, name_in_rows

# The potential whose energies the terms use; `ensemble` adds a second one.
FIRST_POTENTIAL = ("chgnet", None)
SHAPES = ("bounded", "linear")
# Options of each term with their defaults; None marks an option that the config must set.
_SHAPE = {"shape": "bounded", "threshold_ev_per_atom": 0.1, "width_ev_per_atom": 0.5, "implausible_ev_per_atom": -0.5}
OPTIONS: dict[str, dict] = {
    "energy": {"no_crystal": -0.1},
    "formula_match": {},
    "validity": {},
    "e_hull": {**_SHAPE, "n_steps": 0},
    "ensemble": {"potential": None, "model": None, **_SHAPE},
    "relaxed_match": {"n_steps": 5},
    "known_match": {"reach": 0.7},
    "low_symmetry": {"tolerance_ang": 0.05},
    "diversity": {"n_recent": 256},
    "novelty": {},
}
TERMS_WITH_HULL = ("e_hull", "ensemble")
TERMS_WITH_TRAINING = ("known_match", "novelty")


@dataclass(frozen=True)
class RewardTerm:
    """One term of a reward: weight × value, with the value clipped first if a clip (low, high) is given."""

    name: str
    weight: float = 1.0
    clip: tuple[float, float] | None = None
    options: Mapping = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in OPTIONS:
            raise ValueError(f"{self.name!r} is not a reward term; choose from {', '.join(OPTIONS)}")
        known = OPTIONS[self.name]
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise ValueError(f"{self.name}.{unknown[0]} is not an option; it has {', '.join(known) or 'none'}")
        object.__setattr__(self, "options", {**known, **self.options})
        if not math.isfinite(self.weight):
            raise ValueError(f"{self.name}.weight is {self.weight}; give a finite number, 0 to log the term alone")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"{self.name}.clip is {list(self.clip)}; give the lower bound first")
        if self.clip is None and self.is_unbounded:
            raise ValueError(
                f"{self.name} has no clip, but its value is unbounded where the potential is wrong; give clip: "
                "[lowest, highest]"
            )
        if self.options.get("shape", SHAPES[0]) not in SHAPES:
            raise ValueError(f"{self.name}.shape is {self.options['shape']!r}; choose {' or '.join(SHAPES)}")
        if self.name == "ensemble":
            self._check_second_potential()

    @property
    def is_unbounded(self) -> bool:
        return self.name == "energy" or self.options.get("shape") == "linear"

    @property
    def value_without_crystal(self) -> float:
        """The value of the term, before the weight, for an answer that is not a crystal."""
        return self.options.get("no_crystal", self.clip[0] if self.clip and self.is_unbounded else 0.0)

    @property
    def second_potential(self) -> tuple[str, str | None] | None:
        """The second potential and its model (None: default model) of the ensemble term, None for other terms."""
        return (self.options["potential"], self.options["model"]) if self.name == "ensemble" else None

    def _check_second_potential(self) -> None:
        potential, model = self.options["potential"], self.options["model"]
        if potential not in EVALUATORS:
            raise ValueError(f"ensemble.potential is {potential!r}; choose one of {', '.join(EVALUATORS)}")
        if name_in_rows(potential, model) == name_in_rows(*FIRST_POTENTIAL):
            raise ValueError(
                f"ensemble.potential is {name_in_rows(potential, model)}, the first potential itself; give another "
                "potential or model"
            )


def reward_terms(preset: Mapping[str, Mapping]) -> list[RewardTerm]:
    """Return the terms of a preset of the config; ValueError if one is invalid."""
    terms = []
    for name, settings in preset.items():
        options = {key: value for key, value in settings.items() if key not in ("weight", "clip")}
        clip = settings.get("clip")
        terms.append(RewardTerm(name, float(settings.get("weight", 1.0)), tuple(clip) if clip else None, options))
    return terms


def potentials_with_hull(preset: Mapping[str, Mapping]) -> dict[str, tuple[str, str | None]]:
    """Return the potentials whose hull a preset needs, by file name: chgnet, chgnet_0.2.0."""
    terms = [term for term in reward_terms(preset) if term.name in TERMS_WITH_HULL]
    potentials = [FIRST_POTENTIAL] * bool(terms) + [term.second_potential for term in terms if term.second_potential]
    return {re.sub(r"[^\w.]+", "_", "_".join(filter(None, potential))): potential for potential in potentials}
