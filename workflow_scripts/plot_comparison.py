"""Plot the comparison of trained systems: pooled values with intervals, and a mark per training seed."""

import time
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hullseeker.metrics.quantities import QUANTITIES
from hullseeker.report.drawing import GREY, PAGE_WIDTH_IN, Named, named, paper_style, save_figure
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.results import read_result_table

PANELS = (
    "stability_rate_prompted_pct",
    "sun_pct",
    "match_rate_pct",
    "structure_diversity",
    "composition_diversity",
    "structure_novelty",
)
N_COLUMNS, LINE_HEIGHT_IN = 3, 0.22


def draw_panel(axes: Axes, frame: pd.DataFrame, quantity: str, systems: Sequence[Named], baseline: str) -> None:
    """Draw one quantity with one line per system: pooled value, interval, values by seed, and the baseline's value."""
    for y, system in enumerate(systems):
        rows = frame[frame["system"] == system.key]
        pooled, seeds = rows[rows["replicate"].isna()].iloc[0], rows[rows["replicate"].notna()]
        low, high = pooled[f"{quantity}_ci_low"], pooled[f"{quantity}_ci_high"]
        axes.plot([low, high], [y, y], color=system.colour, linewidth=2, alpha=0.5, solid_capstyle="butt")
        axes.plot(pooled[quantity], y, "o", color=system.colour, markersize=5, zorder=4)
        axes.plot(seeds[quantity], [y - 0.3] * len(seeds), "|", color=system.colour, markersize=5)
        if system.key == baseline:
            axes.axvline(pooled[quantity], color=GREY, linestyle=(0, (4, 2)), linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(systems)), [system.label for system in systems])
    axes.set_ylim(len(systems) - 0.4, -0.6)
    axes.set_title(QUANTITIES[quantity].heading_with_arrow, loc="left")


def draw_figure(frame: pd.DataFrame, systems: Sequence[Named], baseline: str) -> Figure:
    """Draw a panel for each quantity that the table has."""
    panels = [name for name in PANELS if name in frame and frame[name].notna().any()]
    n_rows = max(1, -(-len(panels) // N_COLUMNS))
    height = n_rows * (0.55 + LINE_HEIGHT_IN * len(systems))
    figure = Figure(figsize=(PAGE_WIDTH_IN, height), layout="constrained")
    grid = figure.subplots(n_rows, N_COLUMNS, squeeze=False, sharey=True).ravel()
    for axes, quantity in zip(grid, panels, strict=False):
        draw_panel(axes, frame, quantity, systems, baseline)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def main(snakemake) -> None:
    started = time.perf_counter()
    with logging_to(snakemake.log[0], "plot_comparison") as log:
        frame = read_result_table(snakemake.input.comparison)
        compared = set(frame["system"])
        systems = [system for system in named(snakemake.params.systems) if system.key in compared]
        with paper_style():
            figure = draw_figure(frame, systems, snakemake.params.baseline)
            save_figure(figure, snakemake.output.pdf, snakemake.output.png)
        log.info("done: %d systems in %.1f s", len(systems), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
