"""Plot the training curves of CDVAE, SFT (loss, learning rate) and GRPO (reward, shares of answers, reward terms)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from hullseeker.report.drawing import PAGE_WIDTH_IN, Named, empty_panel, named, paper_style, save_figure
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.parquet import read_table
from hullseeker.tables.results import as_paths

N_COLUMNS, PANEL_HEIGHT_IN = 3, 1.75
SMOOTHED_SHARE = 0.1  # window of the running mean, as a share of a curve's points


@dataclass(frozen=True)
class Panel:
    """One panel: stage and quantity, vertical axis, and optionally a second quantity drawn as dots."""

    stage: str
    quantity: str
    title: str
    scale: float = 1.0
    dots: str | None = None
    full_percent: bool = False  # show the axis from 0 to 100
    logarithmic: bool = False


PANELS = (
    Panel("cdvae", "loss", "CDVAE: all losses", logarithmic=True),
    Panel("cdvae", "eval_loss", "CDVAE: held out", logarithmic=True),
    Panel("cdvae", "coordinates_loss", "CDVAE: coordinates"),
    Panel("sft", "loss", "loss (nats/token)", dots="eval_loss"),
    Panel("sft", "learning_rate", "learning rate"),
    Panel("grpo", "reward_mean", "mean reward"),
    Panel("grpo", "reward_std", "deviation of rewards"),
    Panel("grpo", "parse_share", "parsed completions (%)", 100, full_percent=True),
    Panel("grpo", "cut_share", "cut at the limit (%)", 100),
    Panel("grpo", "formula_match_share", "of the prompted formula (%)", 100, full_percent=True),
    Panel("grpo", "coincident_share", "two atoms on one site (%)", 100),
    Panel("grpo", "clipped_share", "rewards clipped (%)", 100),
    Panel("grpo", "silence_paid_share", "no crystal, higher reward (%)", 100),
    # The term `energy` has no panel: where used alone it is the reward itself. The table has all quantities.
    Panel("grpo", "term_e_hull_mean", "e_hull (0 to 1)"),
    Panel("grpo", "term_ensemble_mean", "ensemble (0 to 1)"),
    Panel("grpo", "term_relaxed_match_mean", "relaxed_match (0 to 1)"),
    Panel("grpo", "term_known_match_mean", "known_match (0 to 1)"),
    Panel("grpo", "term_low_symmetry_mean", "low_symmetry (0 to 1)"),
    Panel("grpo", "term_validity_mean", "validity (0 to 1)"),
    Panel("grpo", "term_diversity_mean", "diversity (0 to 1)"),
    Panel("grpo", "term_novelty_mean", "novelty (0 to 1)"),
    Panel("grpo", "completion_tokens_mean", "completion length (tokens)"),
    Panel("grpo", "entropy", "entropy (nats/token)"),
    Panel("grpo", "kl", "KL from the starting model (nats)"),
    Panel("grpo", "grad_norm", "gradient norm"),
)


def series(curve: pd.DataFrame, stage: str, quantity: str) -> pd.Series:
    """Return the finite values of one quantity of one stage, indexed by step; of a step logged twice, the last.

    The stage of a curve is the last one in its name: `grpo` for `sft-grpo` and `sft-grpo-mine`.
    """
    stages = curve["stage"].str.extract(r"^(?:sft-)?(sft|grpo|cdvae)", expand=False)
    rows = curve[(stages == stage) & (curve["quantity"] == quantity)]
    values = rows.set_index("step")["value"]
    values = values[np.isfinite(values)]
    return values[~values.index.duplicated(keep="last")].sort_index()


def smoothed(values: pd.Series) -> pd.Series:
    """Return the centred running mean over a tenth of the points (an odd number, at least 3)."""
    window = max(3, int(len(values) * SMOOTHED_SHARE)) | 1
    return values.rolling(window, center=True, min_periods=1).mean()


def panels_with_data(curves: Sequence[tuple[Named, pd.DataFrame]]) -> list[Panel]:
    """Return the panels that at least one curve has values for."""

    def quantities(panel: Panel) -> tuple[str, ...]:
        return (panel.quantity,) if panel.dots is None else (panel.quantity, panel.dots)

    return [p for p in PANELS if any(len(series(c, p.stage, q)) for _, c in curves for q in quantities(p))]


def draw_panel(axes: Axes, panel: Panel, curves: Sequence[tuple[Named, pd.DataFrame]]) -> None:
    """Draw one quantity of every curve that has it: raw values pale, the running mean on top."""
    for stage, curve in curves:
        values = panel.scale * series(curve, panel.stage, panel.quantity)
        if len(values) == 1:
            axes.plot(values.index, values, "s", color=stage.colour, markersize=3)
        elif len(values):
            axes.plot(values.index, values, color=stage.colour, linewidth=0.6, alpha=0.4)
            average = smoothed(values)
            axes.plot(average.index, average, color=stage.colour)
        dots = panel.scale * series(curve, panel.stage, panel.dots) if panel.dots else []
        if len(dots):
            axes.plot(
                dots.index,
                dots,
                "o",
                color="white",
                markeredgecolor=stage.colour,
                markeredgewidth=1,
                markersize=3.5,
                zorder=5,
            )
    axes.set_title(panel.title + (", dots: held out" if panel.dots else ""), loc="left")
    axes.set_xlabel("step")
    axes.margins(x=0.03, y=0.08)
    if panel.full_percent:
        axes.set_ylim(-4, 104)
    elif panel.scale == 100:
        # Start the axis just below 0, so that a share of 0 is drawn at the bottom.
        top = max(1.0, axes.get_ylim()[1])
        axes.set_ylim(-0.04 * top, top)
    if panel.logarithmic:
        axes.set_yscale("log")
        for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            ticks(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))


def draw_figure(curves: Sequence[tuple[Named, pd.DataFrame]]) -> Figure:
    """Draw every panel that has data, or one panel that states that there are no curves."""
    panels = panels_with_data(curves)
    n_rows = max(1, -(-len(panels) // N_COLUMNS))
    figure = Figure(figsize=(PAGE_WIDTH_IN, n_rows * PANEL_HEIGHT_IN + 0.3), layout="constrained")
    if not panels:
        empty_panel(figure.subplots(), "no training curves")
        return figure
    grid = figure.subplots(n_rows, N_COLUMNS, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        draw_panel(axes, panel, curves)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles = [grid[0].plot([], [], color=stage.colour, linewidth=2, label=stage.label)[0] for stage, _ in curves]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, len(handles)))
    return figure


def main(snakemake) -> None:
    started = time.perf_counter()
    with logging_to(snakemake.log[0], "plot_training_curves") as log:
        stages = named(snakemake.params.curves)
        tables = [read_table(path, "training_curve").to_pandas() for path in as_paths(snakemake.input.curves)]
        with paper_style():
            figure = draw_figure(list(zip(stages, tables, strict=True)))
            save_figure(figure, snakemake.output.pdf, snakemake.output.png)
        log.info("done: %d curves in %.1f s", len(tables), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
