"""Rows of the hull table: energies of relaxed structures above the hull of competing phases.

Needs: numpy, scipy, pymatgen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hullseeker.metrics.hull import Hull, NoReference, composition_of, why_unreliable
from hullseeker.potentials.energy_scales import MP_SOURCE, comparable_energy


def hull_of_phases(phases: Sequence[Mapping]) -> Hull:
    """Return the hull of the rows of a materials table; ValueError if a row has no energy."""
    missing = [row["structure_id"] for row in phases if row["energy_ev_per_atom"] is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(phases)} competing phases have no energy_ev_per_atom ({', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}); evaluate them with the potential that relaxes the samples"
        )
    return Hull.of_structures([row["atomic_numbers"] for row in phases], [row["energy_ev_per_atom"] for row in phases])


def check_same_scale(phases: Sequence[Mapping], relaxed: Sequence[Mapping], reference: str = "evaluator") -> None:
    """Raise ValueError unless the energies of the phases are comparable with those of the relaxed samples."""
    potentials = {row["potential"] for row in relaxed}
    sources = {row["energy_source"] for row in phases}
    expected_sources = {MP_SOURCE} if reference == "mp" else potentials
    if expected_sources and sources - expected_sources or len(sources) > 1 or len(potentials) > 1:
        raise ValueError(
            f"the competing phases have energies of {_names(sources)}, the relaxed structures of {_names(potentials)}; "
            f"that does not fit hull.reference: {reference}. Rebuild the reference with the evaluator in the config."
        )


def _names(values: set) -> str:
    return ", ".join(sorted(str(name) for name in values)) or "none"


def hull_row(
    hull: Hull,
    relaxed: Mapping,
    reference: str = "evaluator",
    lowest_formation_energy_ev_per_atom: float = -math.inf,
    trusted_down_to_ev_per_atom: float | None = None,
) -> dict:
    """Return the hull columns of one relaxed row; a row with another status than ok keeps its status and error.

    The energy is converted to the scale of the hull's reference. A formation energy below
    `lowest_formation_energy_ev_per_atom` is unphysical (status energy_out_of_range). The column `unreliable` says why
    an E_hull is unreliable.
    """
    row = {"structure_id": relaxed["structure_id"], "status": relaxed["status"], "error": relaxed["error"]}
    if relaxed["status"] != "ok":
        return row
    composition = composition_of(relaxed["atomic_numbers"])
    plain_energy = relaxed.get("plain_energy_ev_per_atom")
    try:
        energy = comparable_energy(relaxed, relaxed["energy_ev_per_atom"], relaxed["potential"], reference)
    except ValueError as error:
        return row | {"status": "energy_failed", "error": str(error)}
    try:
        point = hull.point(composition)
    except NoReference as error:
        return row | {"status": "no_reference", "error": str(error)}
    formation_energy = hull.formation_energy(composition, energy)
    if formation_energy < lowest_formation_energy_ev_per_atom:
        explanation = (
            f"the formation energy is {formation_energy:.3g} eV/atom; hull.lowest_formation_energy_ev_per_atom is "
            f"{lowest_formation_energy_ev_per_atom:g}"
        )
        return row | {"status": "energy_out_of_range", "error": explanation}
    e_above_hull = energy - point.energy_ev_per_atom
    has_compound = hull.has_compound(composition)
    return row | {
        "unreliable": why_unreliable(len(composition), has_compound, e_above_hull, trusted_down_to_ev_per_atom),
        "energy_ev_per_atom": energy,
        "hull_energy_ev_per_atom": point.energy_ev_per_atom,
        "e_above_hull_ev_per_atom": e_above_hull,
        # Energy of the unrelaxed structure above the hull.
        "generated_e_above_hull_ev_per_atom": energy
        - point.energy_ev_per_atom
        + (relaxed["initial_energy_ev_per_atom"] - relaxed["energy_ev_per_atom"]),
        # Energy above the hull where the relaxation first converged; null if the sample was not settled.
        "plain_e_above_hull_ev_per_atom": None
        if plain_energy is None
        else e_above_hull + (plain_energy - relaxed["energy_ev_per_atom"]),
        "formation_energy_ev_per_atom": formation_energy,
        "decomposition": point.decomposition,
    }
