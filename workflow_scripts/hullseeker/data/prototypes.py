"""Candidate crystals: structure prototypes decorated with elements by data-mined substitution probabilities.

Needs: pymatgen. Prototypes: the AFLOW library of crystallographic prototypes (Mehl et al. 2017) that pymatgen
ships. Substitution probabilities: Hautier et al. 2011, in pymatgen's `SubstitutionProbability`.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor
from pymatgen.core import Element, Species, Structure
from pymatgen.core.structure_prediction.substitution_probability import SubstitutionProbability

# Noble gases, and radioactive elements without a long-lived isotope in common use.
EXCLUDED_ELEMENTS = frozenset("He Ne Ar Kr Xe Rn Tc Pm Po At Fr Ra Ac Pa Np Pu Am Cm Bk Cf".split())  # noqa: SIM905


def load_prototypes(max_sites: int, n_elements: tuple[int, ...]) -> list[tuple[str, Structure]]:
    """Return (label, structure) of the AFLOW prototypes of at most `max_sites` sites, sorted by label."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    prototypes = []
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure = entry["snl"].structure
        if len(structure) <= max_sites and len(structure.composition) in n_elements:
            prototypes.append((f"{entry['tags']['aflow']}:{structure.composition.reduced_formula}", structure))
    labels = [label for label, _ in prototypes]
    # One label can have several parameter sets; number them so that labels are unique.
    numbered = [
        f"{label}:{labels[:i].count(label)}" if labels.count(label) > 1 else label for i, label in enumerate(labels)
    ]
    return sorted(zip(numbered, (structure for _, structure in prototypes), strict=True), key=lambda pair: pair[0])


class Substitutions:
    """Log-probabilities of substituting a species for another, and an element for another (maximum over charges)."""

    def __init__(self) -> None:
        table = SubstitutionProbability()
        species = sorted(table.species, key=str)
        self.by_species: dict[Species, dict[Species, float]] = defaultdict(dict)
        self.by_element: dict[str, dict[str, float]] = defaultdict(dict)
        for old, new in itertools.product(species, species):
            if old.oxi_state != new.oxi_state or {old.symbol, new.symbol} & EXCLUDED_ELEMENTS:
                continue
            log_p = math.log(table.prob(old, new))
            self.by_species[old][new] = log_p
            best = self.by_element[old.symbol].get(new.symbol, -math.inf)
            self.by_element[old.symbol][new.symbol] = max(best, log_p)

    def choices(self, structure: Structure) -> list[tuple[str, dict[str, float]]]:
        """Return, per element of the prototype, the possible substitutes and their log-probabilities.

        A charge-balanced prototype is substituted by species, at constant charge; any other (an intermetallic) by
        element, with the highest probability over charges.
        """
        guesses = structure.composition.oxi_state_guesses()
        elements = [element.symbol for element in structure.composition.elements]
        if guesses and all(float(guesses[0][e]).is_integer() for e in elements):
            ions = [Species(e, int(guesses[0][e])) for e in elements]
            if all(s in self.by_species for s in ions):
                return [(s.symbol, {n.symbol: p for n, p in self.by_species[s].items()}) for s in ions]
        return [(e, self.by_element.get(e, {})) for e in elements]


def decorate(
    structure: Structure,
    choices: list[tuple[str, dict[str, float]]],
    n_max: int,
    rng: np.random.Generator,
    temperature: float,
) -> Iterator[Structure]:
    """Yield up to `n_max` decorations, drawn without replacement by probability ** (1 / temperature)."""
    combinations, scores = [], []
    for combination in itertools.product(*(sorted(new.items()) for _, new in choices)):
        symbols = [symbol for symbol, _ in combination]
        if len(set(symbols)) == len(symbols):
            combinations.append(symbols)
            scores.append(sum(log_p for _, log_p in combination) / temperature)
    # Gumbel top-k trick: sorting by score plus Gumbel noise draws without replacement.
    order = np.argsort(-(np.array(scores) + rng.gumbel(size=len(scores))))[:n_max]
    for index in order:
        replaced = structure.copy()
        replaced.remove_oxidation_states()
        replaced = replaced.replace_species(
            {Element(old): Element(new) for (old, _), new in zip(choices, combinations[index], strict=True)},
            in_place=False,
        )
        yield with_guessed_volume(replaced)


def with_guessed_volume(structure: Structure) -> Structure:
    """Return the structure scaled to the predicted volume (DLS, Chu et al. 2018); unchanged if that fails."""
    try:
        volume = DLSVolumePredictor().predict(structure)
    except (ValueError, KeyError, TypeError):
        return structure
    if not (math.isfinite(volume) and 4 < volume / len(structure) < 120):
        return structure
    scaled = structure.copy()
    scaled.scale_lattice(volume)
    return scaled
