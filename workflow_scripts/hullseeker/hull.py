"""The convex hull of a set of competing phases: hull energy of a composition, E_hull and formation energy of an entry.

Needs: numpy, scipy, ase, pymatgen (formulas only).

A composition maps element symbols to amounts; energies are eV per atom.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from pymatgen.core import Composition
from scipy.optimize import linprog

# Fractions equal to this many decimals are one composition; a share of a product below the tolerance is none.
_DECIMALS = 9
_SHARE_TOLERANCE = 1e-6

Key = tuple[tuple[str, float], ...]


class NoReference(ValueError):  # noqa: N818  the name is also the row's status
    """An element of the queried composition has no elemental entry, so nothing can be said about its stability."""


@dataclass(frozen=True)
class HullPoint:
    """Hull energy (eV/atom) of one composition, and the mixture of phases (fractions of atoms) that has it."""

    energy_ev_per_atom: float
    decomposition: str


def composition_of(atomic_numbers: Iterable[int]) -> dict[str, float]:
    """Return the atomic fractions by element symbol; ValueError where there is no atom."""
    return fractions_of(Counter(chemical_symbols[int(z)] for z in atomic_numbers))


def fractions_of(amounts: Mapping[str, float]) -> dict[str, float]:
    """Return amounts divided by their sum, elements sorted, absent ones left out; ValueError where none is positive."""
    total = sum(amounts.values())
    if not amounts or min(amounts.values()) < 0 or not total > 0:
        raise ValueError(f"{dict(amounts)} is not a composition")
    return {element: amounts[element] / total for element in sorted(amounts) if amounts[element] > 0}


def formation_energy(composition: Mapping[str, float], energy: float, elemental: Mapping[str, float]) -> float:
    """Return energy − Σ fraction × elemental energy, all eV/atom; NoReference where an element has none."""
    missing = sorted(set(composition) - set(elemental))
    if missing:
        raise NoReference(f"no elemental phase of {', '.join(missing)} among the competing phases")
    return float(energy - sum(x * elemental[e] for e, x in fractions_of(composition).items()))


class Hull:
    """The lower convex hull of entries, queried one composition at a time by a linear programme.

    min Σ e_j x_j over x ≥ 0 with Σ x_j c_j = c: the cheapest mixture of entries of that composition
    (Ong et al., Chem. Mater. 20, 1798 (2008); as pymatgen's PhaseDiagram, without building the diagram).
    """

    def __init__(self, compositions: Sequence[Mapping[str, float]], energies_ev_per_atom: Sequence[float]) -> None:
        """Take one composition and one energy (eV/atom) per entry; ValueError where an energy is not finite."""
        lowest: dict[Key, float] = {}
        for amounts, energy in zip(compositions, energies_ev_per_atom, strict=True):
            composition = fractions_of(amounts)
            if energy is None or not np.isfinite(energy):
                raise ValueError(f"the energy of the competing phase {_formula(composition)} is {energy}, not a number")
            key = _key(composition)
            lowest[key] = min(float(energy), lowest.get(key, np.inf))
        self.elemental_energies: dict[str, float] = {key[0][0]: e for key, e in lowest.items() if len(key) == 1}
        self._entries: dict[frozenset[str], list[tuple[dict[str, float], float]]] = defaultdict(list)
        for key, energy in sorted(lowest.items()):
            system = frozenset(element for element, _ in key)
            if system <= set(self.elemental_energies):
                formation = formation_energy(dict(key), energy, self.elemental_energies)
                # A phase that does not beat its elements is never part of the cheapest mixture.
                if len(key) == 1 or formation < 0:
                    self._entries[system].append((dict(key), formation))
        self._points: dict[Key, HullPoint] = {}
        self._columns: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray, list[str]]] = {}

    def point(self, composition: Mapping[str, float]) -> HullPoint:
        """Return the hull energy (eV/atom) and decomposition at a composition; NoReference as the class says."""
        composition = fractions_of(composition)
        key = _key(composition)
        if key not in self._points:
            self._points[key] = self._solve(composition)
        return self._points[key]

    def e_above_hull(self, composition: Mapping[str, float], energy_ev_per_atom: float) -> float:
        """Return energy − hull energy, eV/atom; negative below the hull of the competing phases."""
        return float(energy_ev_per_atom - self.point(composition).energy_ev_per_atom)

    def formation_energy(self, composition: Mapping[str, float], energy_ev_per_atom: float) -> float:
        """Return the energy (eV/atom) against the lowest elemental entries; NoReference where one is missing."""
        return formation_energy(composition, energy_ev_per_atom, self.elemental_energies)

    def _solve(self, composition: dict[str, float]) -> HullPoint:
        # Solved in formation energies: of the order of 1 eV, where total energies would cost digits.
        elements_energy = -self.formation_energy(composition, 0.0)
        matrix, energies, formulas = self._system(tuple(composition))
        solution = linprog(energies, A_eq=matrix, b_eq=list(composition.values()), bounds=(0, None), method="highs")
        if solution.status != 0:
            raise RuntimeError(f"the hull of {'-'.join(composition)} could not be solved: {solution.message}")
        shares = sorted(zip(solution.x, formulas, strict=True), key=lambda share: (-round(share[0], 6), share[1]))
        text = " + ".join(f"{share:.3f} {formula}" for share, formula in shares if share > _SHARE_TOLERANCE)
        return HullPoint(float(elements_energy + solution.fun), text)

    def _system(self, elements: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return the entries within a chemical system: fractions (n_elements, n), energies (n,), formulas."""
        if elements not in self._columns:
            within = [entry for system, found in self._entries.items() if system <= set(elements) for entry in found]
            matrix = np.array([[fractions.get(element, 0.0) for fractions, _ in within] for element in elements])
            energies = np.array([energy for _, energy in within])
            self._columns[elements] = matrix, energies, [_formula(fractions) for fractions, _ in within]
        return self._columns[elements]


def _key(composition: Mapping[str, float]) -> Key:
    return tuple((element, round(fraction, _DECIMALS)) for element, fraction in composition.items())


def _formula(fractions: Mapping[str, float]) -> str:
    return Composition(fractions).get_integer_formula_and_factor()[0]
