"""Render one table of results, with the paper's values, as Markdown, LaTeX and a self-contained HTML page."""

import pandas as pd

from hullseeker.report.rendering import systems_across, systems_down, to_html, to_latex, to_markdown
from hullseeker.report.result_tables import LIMIT, columns_of, note_on_unreliable, unreliable_columns
from hullseeker.report.titles import HEADINGS
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.results import read_result_table


def main(snakemake) -> None:
    params, inputs, table = snakemake.params, snakemake.input, snakemake.params.table
    with logging_to(snakemake.log[0], f"render_tables.{table}") as log:
        paper = pd.read_csv(inputs.paper_tables, dtype=str, keep_default_na=False)
        input_names = inputs.keys()  # `in` on Snakemake's Namedlist tests paths, not names
        formula_match = read_result_table(inputs.formula_match) if "formula_match" in input_names else None
        validity_definition = getattr(params, "structure_validity", "paper")
        evaluators = getattr(params, "evaluators", None)
        paper_rows = getattr(params, "paper_rows", None)
        frame = read_result_table(inputs[table])
        columns = columns_of(table, frame, paper, formula_match, validity_definition, evaluators, paper_rows)
        notes = (
            ["Brackets: 95% bootstrap intervals over rows."] if any(ci for c in columns for _, ci in c.cells) else []
        )
        notes += params.footnotes.get(table, [])
        limit = getattr(params, "trusted_down_to", LIMIT)
        notes += note_on_unreliable(frame, unreliable_columns(evaluators or {}), limit)
        # One line per quantity, since there are many quantities and few systems.
        grid = systems_down(columns) if table == "failure_ledger" else systems_across(columns)
        for kind, render in {"md": to_markdown, "tex": to_latex, "html": to_html}.items():
            with replacing(getattr(snakemake.output, kind)) as temporary_path:
                temporary_path.write_text(
                    render(getattr(params, "title", HEADINGS[table]), grid, notes), encoding="utf-8"
                )
        log.info("done: %s, %d rows, %d columns", table, len(grid) - 1, len(grid[0]))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
