"""Render the comparison of trained systems as Markdown, LaTeX and a self-contained HTML page."""

from hullseeker.metrics.verdict import UNRELIABLE_PCT
from hullseeker.report.comparison_table import TITLE, columns_of
from hullseeker.report.rendering import systems_across, to_html, to_latex, to_markdown
from hullseeker.report.result_tables import note_on_unreliable
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.results import read_result_table


def main(snakemake) -> None:
    params = snakemake.params
    with logging_to(snakemake.log[0], "render_comparison") as log:
        frame = read_result_table(snakemake.input.comparison)
        grid = systems_across(columns_of(frame, params.baseline))
        pooled = frame[frame["replicate"].isna()]
        notes = [*params.footnotes, *note_on_unreliable(pooled, {UNRELIABLE_PCT: ""}, params.trusted_down_to)]
        for kind, render in {"md": to_markdown, "tex": to_latex, "html": to_html}.items():
            with replacing(getattr(snakemake.output, kind)) as temporary_path:
                temporary_path.write_text(render(TITLE, grid, notes), encoding="utf-8")
        log.info("done: %d lines", len(grid) - 1)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
