"""Compute the energy above the hull of every relaxed structure, with competing phases of the same energy scale."""

import time
from collections import Counter

from hullseeker.metrics.hull_rows import check_same_scale, hull_of_phases, hull_row
from hullseeker.runtime.logs import close_with_counts, logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import check_children, read_table, write_table


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
        names = ("reference", "lowest_formation_energy_ev_per_atom", "trusted_down_to_ev_per_atom")
        options = [settings[name] for name in names]
        rows = [hull_row(hull, row, *options) for row in progress(relaxed, "hull")]
        run = describe_run(settings, [inputs.samples, inputs.relaxed, inputs.phases])
        write_table(snakemake.output[0], rows, "hull", run)
        unreliable = Counter(row["unreliable"] for row in rows if row.get("unreliable"))
        for reason, n in sorted(unreliable.items()):
            log.warning("%d of %d samples do not count as stable: %s", n, len(rows), reason)
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
