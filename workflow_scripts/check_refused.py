"""Count the refused entries of the data set by reason; fail if their share exceeds data.max_refused_share."""

import pandas as pd

from hullseeker.report.refusals import by_reason, refused_parts, too_many
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to

COLUMNS = ("part", "n_entries", "n_refused", "reason", "n", "first_id")


def main(snakemake) -> None:
    inputs, params = snakemake.input, snakemake.params
    with logging_to(snakemake.log[0], "check_refused") as log:
        lines, problems = [], []
        for read, refused in zip(inputs.read, inputs.refused, strict=True):
            for part in refused_parts(read, refused):
                log.info("%s: %s refused", part.part, part.in_words)
                columns_of_part = (part.part, part.n_entries, len(part.rows))
                lines += [(*columns_of_part, *reason) for reason in by_reason(part.rows) or [("", 0, "")]]
                problems.append(too_many(part, params.max_refused_share, refused, params.source))
        if problems := list(filter(None, problems)):
            raise ValueError("; ".join(problems))
        with replacing(snakemake.output.csv) as temporary_path:
            pd.DataFrame(lines, columns=COLUMNS).to_csv(temporary_path, index=False)
        log.info("done: %d lines", len(lines))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
