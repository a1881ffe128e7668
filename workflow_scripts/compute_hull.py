"""Energy above the hull of every relaxed structure, against competing phases of the same potential."""

import math
import time
from collections.abc import Mapping, Sequence

from hullseeker.energy_scales import MP_SOURCE, comparable_energy
from hullseeker.hull import Hull, NoReference, composition_of
from hullseeker.logs import close_with_counts, logging_to, progress
from hullseeker.provenance import describe_run
from hullseeker.tables import check_children, read_table, write_table


def hull_of_phases(phases: Sequence[Mapping]) -> Hull:
    """Return the hull of the rows of a materials table; ValueError naming the rows that have no energy."""
    without = [row["structure_id"] for row in phases if row["energy_ev_per_atom"] is None]
    if without:
        raise ValueError(
            f"{len(without)} of {len(phases)} competing phases have no energy_ev_per_atom ({', '.join(without[:5])}"
            f"{', …' if len(without) > 5 else ''}); evaluate them with the potential that relaxes the samples"
        )
    return Hull.of_structures([row["atomic_numbers"] for row in phases], [row["energy_ev_per_atom"] for row in phases])


def check_same_scale(phases: Sequence[Mapping], relaxed: Sequence[Mapping], reference: str = "evaluator") -> None:
    """Raise ValueError unless the phases' energies go with those of the one potential that relaxed the samples."""
    potentials = {row["potential"] for row in relaxed}
    sources = {row["energy_source"] for row in phases}
    wanted = {MP_SOURCE} if reference == "mp" else potentials
    if wanted and sources - wanted or len(sources) > 1 or len(potentials) > 1:
        raise ValueError(
            f"the competing phases have energies of {_names(sources)}, the relaxed structures of {_names(potentials)}; "
            f"that does not fit hull.reference: {reference}. Rebuild the reference with the evaluator in the config."
        )


def _names(found: set) -> str:
    return ", ".join(sorted(str(name) for name in found)) or "none"


def hull_row(
    hull: Hull, relaxed: Mapping, reference: str = "evaluator", lowest_formation_energy_ev_per_atom: float = -math.inf
) -> dict:
    """Return the hull columns of one relaxed row; a row that did not converge is passed on with its error.

    The row's energy is on the scale of the hull's reference. A formation energy lower than any compound's is a hole
    of the potential: energy_out_of_range.
    """
    row = {"structure_id": relaxed["structure_id"], "status": relaxed["status"], "error": relaxed["error"]}
    if relaxed["status"] != "ok":
        return row
    composition = composition_of(relaxed["atomic_numbers"])
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
        error = (
            f"the formation energy is {formation_energy:.3g} eV/atom; hull.lowest_formation_energy_ev_per_atom is "
            f"{lowest_formation_energy_ev_per_atom:g}"
        )
        return row | {"status": "energy_out_of_range", "error": error}
    return row | {
        "energy_ev_per_atom": energy,
        "hull_energy_ev_per_atom": point.energy_ev_per_atom,
        "e_above_hull_ev_per_atom": energy - point.energy_ev_per_atom,
        # Of the structure as it was generated: how much of a low E_hull is the relaxation's doing.
        "generated_e_above_hull_ev_per_atom": energy
        - point.energy_ev_per_atom
        + (relaxed["initial_energy_ev_per_atom"] - relaxed["energy_ev_per_atom"]),
        "formation_energy_ev_per_atom": formation_energy,
        "decomposition": point.decomposition,
    }


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs = dict(snakemake.params.settings), snakemake.input
    with logging_to(snakemake.log[0], "compute_hull") as log:
        samples = read_table(inputs.samples, "samples").column("structure_id").to_pylist()
        relaxed = read_table(inputs.relaxed, "relaxed").to_pylist()
        phases = read_table(inputs.phases, "materials").to_pylist()
        check_children([row["structure_id"] for row in relaxed], samples, str(inputs.relaxed))
        hull = hull_of_phases(phases)
        check_same_scale(phases, relaxed, settings["reference"])
        about = (settings["reference"], settings["lowest_formation_energy_ev_per_atom"])
        rows = [hull_row(hull, row, *about) for row in progress(relaxed, "hull")]
        run = describe_run(settings, [inputs.samples, inputs.relaxed, inputs.phases])
        write_table(snakemake.output[0], rows, "hull", run)
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
