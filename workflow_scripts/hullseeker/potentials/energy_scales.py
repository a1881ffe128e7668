"""Which energies may be compared: the scale of each potential, and how one gets to the scale of the hull.

Needs: the standard library; pymatgen for the corrections.

Scales: `mp_uncorrected`, the Materials Project's PBE and PBE+U energies as computed; `mp_corrected`, the same with the
MP2020 corrections (Wang et al., Sci. Rep. 11, 15496 (2021)); `omat24`, PBE and PBE+U with the settings and newer
pseudopotentials of OMat24; `r2scan`, the meta-GGA. A potential's scale stands in registry.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from hullseeker.potentials.registry import EVALUATORS

# What the phases of `hull.reference: mp` are marked with.
MP_SOURCE = "mp_corrected"


def scale_of(potential: str) -> str:
    """Return the scale of a potential by the name in its rows (sevennet:7net-0); KeyError where it is unknown."""
    name, _, model = potential.partition(":")
    return EVALUATORS[name].scale_of_model(model)


def refusal(potential: str, reference: str, key: str = "relax.potential") -> str | None:
    """Return why the energies of a potential (sevennet or sevennet:7net-0) do not go with a hull reference, or None."""
    scale = scale_of(potential)
    if reference == "evaluator" or scale in ("mp_corrected", "mp_uncorrected"):
        return None
    return (
        f"hull.reference is 'mp', whose energies are on the scale mp_corrected, and {key} is {potential!r}, "
        f"whose energies are on the scale {scale}; no correction leads from one to the other: use hull.reference: "
        "evaluator"
    )


def comparable_energy(row: Mapping, energy_ev_per_atom: float, potential: str, reference: str) -> float:
    """Return a potential's energy (eV/atom) of the row's structure on the scale of the hull's reference.

    On `mp` an uncorrected potential's energy gets the MP2020 correction; ValueError where pymatgen has none for it.
    """
    if reference == "evaluator" or scale_of(potential) == "mp_corrected":
        return energy_ev_per_atom
    return energy_ev_per_atom + mp2020_correction_ev_per_atom(row)


@cache
def _compatibility():
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility(check_potcar=False)


@cache
def _hubbard_u() -> dict[str, dict[str, float]]:
    """The Materials Project's U values (eV) by anion and metal: with O or F, and nowhere else."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    return MPRelaxSet.CONFIG["INCAR"]["LDAUU"]


def mp2020_correction_ev_per_atom(row: Mapping) -> float:
    """Return the MP2020 correction of a structure row, run type and U as the Materials Project would have set them.

    Raises ValueError where the scheme does not cover the structure.
    """
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    from hullseeker.tables.structures import to_structure

    structure = to_structure(row)
    symbols = {element.symbol for element in structure.composition}
    most_negative = max(structure.composition, key=lambda element: element.X).symbol
    hubbards = {s: u for s, u in _hubbard_u().get(most_negative, {}).items() if s in symbols}
    parameters = {"run_type": "GGA+U" if hubbards else "GGA", "is_hubbard": bool(hubbards), "hubbards": hubbards}
    entry = ComputedStructureEntry(structure, 0.0, parameters=parameters)
    done = _compatibility().process_entry(entry, inplace=False)
    if done is None:
        raise ValueError(f"the MP2020 scheme does not cover {structure.composition.reduced_formula}")
    return float(done.correction_per_atom)
