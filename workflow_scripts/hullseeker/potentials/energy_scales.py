"""Energy scales of potentials, and the conversion of energies to the scale of the hull.

Needs: the standard library; pymatgen for the corrections.

Scales: `mp_uncorrected`, the Materials Project's PBE and PBE+U energies as computed; `mp_corrected`, the same with the
MP2020 corrections (Wang et al., Sci. Rep. 11, 15496 (2021)); `omat24`, PBE and PBE+U with the settings and newer
pseudopotentials of OMat24; `r2scan`, the meta-GGA. The scale of each potential is set in registry.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from hullseeker.potentials.registry import EVALUATORS

# The `energy_source` of phases with `hull.reference: mp`.
MP_SOURCE = "mp_corrected"


def scale_of(potential: str) -> str:
    """Return the scale of a potential by its name in tables (sevennet:7net-0); raises KeyError if it is unknown."""
    name, _, model = potential.partition(":")
    return EVALUATORS[name].scale_of_model(model)


def scale_mismatch(potential: str, reference: str, key: str = "relax.potential") -> str | None:
    """Return an error message if a potential's energies cannot be compared with a hull reference, else None.

    `potential` is sevennet or sevennet:7net-0, set by the config key `key`.
    """
    scale = scale_of(potential)
    if reference == "evaluator" or scale in ("mp_corrected", "mp_uncorrected"):
        return None
    return (
        f"hull.reference is 'mp', whose energies are on the scale mp_corrected, and {key} is {potential!r}, "
        f"whose energies are on the scale {scale}; no correction converts one to the other: use hull.reference: "
        "evaluator"
    )


def comparable_energy(row: Mapping, energy_ev_per_atom: float, potential: str, reference: str) -> float:
    """Return a potential's energy (eV/atom) of the row's structure on the scale of the hull's reference.

    For reference `mp`, energies of a potential without corrections get the MP2020 correction; raises ValueError if the
    scheme does not cover the structure.
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
    """Return the Materials Project's U values (eV) by anion (O and F only) and metal."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    return MPRelaxSet.CONFIG["INCAR"]["LDAUU"]


def mp2020_correction_ev_per_atom(row: Mapping) -> float:
    """Return the MP2020 correction (eV/atom) of a row, with the run type and U values of the Materials Project.

    Raises ValueError if the scheme does not cover the structure.
    """
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    from hullseeker.tables.structures import to_structure

    structure = to_structure(row)
    symbols = {element.symbol for element in structure.composition}
    most_negative = max(structure.composition, key=lambda element: element.X).symbol
    hubbards = {s: u for s, u in _hubbard_u().get(most_negative, {}).items() if s in symbols}
    parameters = {"run_type": "GGA+U" if hubbards else "GGA", "is_hubbard": bool(hubbards), "hubbards": hubbards}
    entry = ComputedStructureEntry(structure, 0.0, parameters=parameters)
    corrected = _compatibility().process_entry(entry, inplace=False)
    if corrected is None:
        raise ValueError(f"the MP2020 scheme does not cover {structure.composition.reduced_formula}")
    return float(corrected.correction_per_atom)
