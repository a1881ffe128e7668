"""Make Table 2: validity, coverage, diversity and novelty of every system, with 95% bootstrap intervals."""

import time

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hullseeker.metrics.distribution import COLUMNS, COUNTS, has_fingerprint, load_scaler, table2_row
from hullseeker.metrics.validity import OXIDATION_STATES_SET
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import close_with_counts, logging_to
from hullseeker.runtime.provenance import describe_run, seed_for
from hullseeker.tables.parquet import check_children, read_table


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs, params = snakemake.input, snakemake.params
    settings = dict(params.settings)
    with logging_to(snakemake.log[0], "make_table2") as log:
        train_rows, test_rows = (read_table(path, "fingerprints") for path in (inputs.train, inputs.test))
        for split, rows in (("train", train_rows), ("test", test_rows)):
            log.info("%s: %d crystals, %d with fingerprints", split, len(rows), has_fingerprint(rows).sum())
        scaler = load_scaler(settings["composition_scaler"], train_rows, inputs.scaler)
        lines, statuses = [], []
        for system, samples, fingerprints in zip(params.systems, inputs.samples, inputs.fingerprints, strict=True):
            rows = read_table(fingerprints, "fingerprints")
            ids, parents = (table["structure_id"].to_pylist() for table in (rows, read_table(samples, "samples")))
            check_children(ids, parents, str(fingerprints))
            seed = seed_for(params.seed, "make_table2", system["system"])
            lines.append({**system, **table2_row(rows, train_rows, test_rows, scaler, settings, seed)})
            statuses += rows["status"].to_pylist()
            log.info("%s: %s", system["system"], lines[-1])
        table = pd.DataFrame(lines, columns=list(COLUMNS)).astype(
            {name: float for name in COLUMNS[2:] if name not in COUNTS}
        )
        metadata = describe_run(
            settings, [*inputs.samples, *inputs.fingerprints, inputs.train, inputs.test], params.seed
        )
        metadata["oxidation_states_set"] = OXIDATION_STATES_SET
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        with replacing(snakemake.output.csv) as temporary_path:
            table.to_csv(temporary_path, index=False)
        with replacing(snakemake.output.parquet) as temporary_path:
            pq.write_table(arrow.replace_schema_metadata(metadata), temporary_path)
        close_with_counts(log, statuses, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
