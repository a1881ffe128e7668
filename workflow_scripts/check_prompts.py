"""Fail if there are fewer training prompts than one step of GRPO takes, since the trainer would then take no step."""

from pathlib import Path

import pandas as pd

from hullseeker.data.checks import too_few_prompts
from hullseeker.data.selection import rows_in_use
from hullseeker.language_model.prompts import prompts_of
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.parquet import read_table


def main(snakemake) -> None:
    params = snakemake.params
    with logging_to(snakemake.log[0], "check_prompts") as log:
        rows = rows_in_use(read_table(snakemake.input.materials, "materials").to_pylist(), "train")
        n_prompts = len(prompts_of(rows, Path(snakemake.input.prompt).read_text(), params.formula))
        problems = [
            too_few_prompts(n_prompts, required, stages) for stages, required in params.prompts_per_step.items()
        ]
        if problems := list(filter(None, problems)):
            raise ValueError("; ".join(problems))
        lines = [(stages, n_prompts, required) for stages, required in params.prompts_per_step.items()]
        with replacing(snakemake.output.csv) as temporary_path:
            pd.DataFrame(lines, columns=["stages", "n_prompts", "prompts_per_step"]).to_csv(temporary_path, index=False)
        log.info("done: %d training prompts", n_prompts)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
