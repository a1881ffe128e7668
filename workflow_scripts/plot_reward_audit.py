"""Plot the reward audit: formation energies of generated structures by the reward potential and by the evaluator.

The panel of a system with RL also shows, in grey, the samples of the model that RL started from.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from hullseeker.metrics.audit import CHGNET, EVALUATOR, is_fooled, median_gap
from hullseeker.metrics.quantities import QUANTITIES
from hullseeker.metrics.summaries import spearman
from hullseeker.metrics.verdict import E_HULL, is_unreliable, is_unstable
from hullseeker.report.drawing import ALARM, GREY, PAGE_WIDTH_IN, Named, empty_panel, named, paper_style, save_figure
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.parquet import read_table
from hullseeker.tables.results import as_paths

N_COLUMNS, PANEL_IN = 3, 2.8
BEFORE = "#b8b8b8"
LIMITS_EV_PER_ATOM = (-10.0, 50.0)  # points outside are drawn on the edge, and counted
LINEAR_BELOW_EV_PER_ATOM = 1.0
TICKS_EV_PER_ATOM = (-10, -3, -1, 0, 1, 3, 10, 30)
JUDGED_BY = ["chgnet_energy_ev_per_atom", "chgnet_reference_energy_ev_per_atom", E_HULL]


@dataclass(frozen=True)
class Audit:
    """The numbers of one panel; NaN if too few points have both energies."""

    n: int
    n_judged: int
    n_fooled: int
    spearman_rho: float
    median_gap_ev_per_atom: float


def audit_frame(rows: Sequence[Mapping], threshold_ev_per_atom: float) -> pd.DataFrame:
    """Return `evaluator` and `chgnet` (formation energies, eV/atom), `judged` and `fooled` of rows with both energies.

    A row is fooled if the reward's energy is below that of the known structure of its composition, but E_hull by the
    evaluator is not below the threshold. It is judged if both comparisons are possible, the second on a reliable hull
    or with an E_hull above the threshold.
    """
    energies = [EVALUATOR, CHGNET, *JUDGED_BY]
    values = [(row["unreliable"], *(row[name] for name in energies)) for row in rows if row["status"] == "ok"]
    frame = pd.DataFrame(values, columns=["unreliable", *energies]).astype(dict.fromkeys(energies, float))
    frame = frame.rename(columns={EVALUATOR: "evaluator", CHGNET: "chgnet"})
    frame = frame[np.isfinite(frame["evaluator"]) & np.isfinite(frame["chgnet"])]
    has_verdict = is_unstable(frame, threshold_ev_per_atom) | ~is_unreliable(frame)
    frame["judged"] = frame[JUDGED_BY].notna().all(axis=1) & has_verdict
    frame["fooled"] = is_fooled(frame, threshold_ev_per_atom)
    return frame


def audit_numbers(frame: pd.DataFrame) -> Audit:
    """Return counts, Spearman's rank correlation, and the median of reward minus evaluator, of all points."""
    pairs = frame[["chgnet", "evaluator"]].to_numpy(float)
    return Audit(len(frame), int(frame["judged"].sum()), int(frame["fooled"].sum()), spearman(pairs), median_gap(pairs))


def common_limits(frames: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """Return the axis limits (eV/atom) of all panels: the range of the data, at least ±1, at most -10 to 50."""
    values = np.concatenate([frame[["evaluator", "chgnet"]].to_numpy().ravel() for frame in frames] or [np.zeros(0)])
    low, high = min(-1.0, *values, -1.0), max(1.0, *values, 1.0)
    return max(low * 1.15, LIMITS_EV_PER_ATOM[0]), min(high * 1.15, LIMITS_EV_PER_ATOM[1])


@dataclass(frozen=True)
class Block:
    """The data of one panel: the system's points, the number of samples drawn, and the block before RL, if any."""

    system: Named
    frame: pd.DataFrame
    n_drawn: int
    before: "Block | None" = None


def panel_text(block: Block, limits: tuple[float, float]) -> str:
    """Return the lines above a panel; with RL, the numbers before and after it."""
    audits = [audit_numbers(stage.frame) for stage in (block.before, block) if stage is not None]
    after, arrow, n_outside = audits[-1], " → ", int(is_outside(block.frame, limits).sum())
    rho = arrow.join("n/a" if np.isnan(audit.spearman_rho) else f"{audit.spearman_rho:.2f}" for audit in audits)
    gap = arrow.join("n/a" if not audit.n else f"{audit.median_gap_ev_per_atom:+.2f}" for audit in audits)
    fooled = arrow.join(f"{audit.n_fooled}" for audit in audits)
    lines = [f"n = {after.n} of {block.n_drawn}" + (f", {n_outside} beyond the axes" if n_outside else "")]
    lines.append(f"fooled {fooled} of {block.n_drawn} ({after.n_judged} judged)")
    lines.append(f"{QUANTITIES['spearman_rho'].name} {rho}")
    return "\n".join([*lines, f"median gap {gap} {QUANTITIES['median_gap_ev_per_atom'].unit}"]).replace("-", "−")


def is_outside(frame: pd.DataFrame, limits: tuple[float, float]) -> pd.Series:
    """Return which points lie beyond the axis limits."""
    return ((frame[["evaluator", "chgnet"]] < limits[0]) | (frame[["evaluator", "chgnet"]] > limits[1])).any(axis=1)


def draw_points(axes: Axes, frame: pd.DataFrame, limits: tuple[float, float], colours: tuple[str, str], z: int) -> None:
    """Draw the points, those that fool the reward in the second colour; points beyond the axes are diamonds."""
    (low, high), outside = limits, is_outside(frame, limits)
    for fooled, inside_marker, size in ((False, "o", 10), (True, "^", 18)):
        for clipped, marker in ((False, inside_marker), (True, "D")):
            part = frame[(frame["fooled"] == fooled) & (outside == clipped)]
            axes.scatter(
                part["evaluator"].clip(low, high),
                part["chgnet"].clip(low, high),
                s=size,
                c=colours[fooled],
                marker=marker,
                alpha=0.75,
                linewidths=0.3,
                edgecolors="white",
                zorder=z + fooled,
                clip_on=not clipped,
            )


def draw_panel(axes: Axes, block: Block, limits: tuple[float, float]) -> None:
    """Draw the parity plot of one system, on symmetric logarithmic axes."""
    low, high = limits
    axes.set_xscale("symlog", linthresh=LINEAR_BELOW_EV_PER_ATOM, linscale=0.8)
    axes.set_yscale("symlog", linthresh=LINEAR_BELOW_EV_PER_ATOM, linscale=0.8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([t for t in TICKS_EV_PER_ATOM if low <= t <= high]))
        axis.set_minor_locator(FixedLocator([]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    line = np.linspace(low, high, 200)
    axes.plot(line, line, color=GREY, linewidth=0.7, zorder=0)
    if block.before is not None:
        draw_points(axes, block.before.frame, limits, (BEFORE, BEFORE), 1)
    draw_points(axes, block.frame, limits, (block.system.colour, ALARM), 3)


def draw_figure(blocks: Sequence[Block]) -> Figure:
    """Draw a panel for each system, all with the same axis limits."""
    n_columns = max(1, min(N_COLUMNS, len(blocks)))
    n_rows = max(1, -(-len(blocks) // n_columns))
    width = PAGE_WIDTH_IN * n_columns / N_COLUMNS
    figure = Figure(figsize=(width, n_rows * PANEL_IN + 0.55), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    limits = common_limits([block.frame for block in blocks])
    for axes, block in zip(grid, blocks, strict=False):
        if len(block.frame):
            draw_panel(axes, block, limits)
        else:
            axes.set_box_aspect(1)
            empty_panel(axes, f"no audited samples, of {block.n_drawn} drawn")
        start = f", from {block.before.system.label}" if block.before else ""
        axes.set_title(f"{block.system.label}{start}", color=block.system.colour, fontweight="bold", pad=37)
        text_style = {"fontsize": 6, "linespacing": 1.3, "ha": "center", "va": "bottom", "in_layout": False}
        axes.text(0.5, 1.02, panel_text(block, limits), transform=axes.transAxes, **text_style)
    for axes in grid[len(blocks) :]:
        axes.set_axis_off()
    figure.supxlabel("evaluator's formation energy of the generated structure (eV/atom)", fontsize=7)
    figure.supylabel("reward's formation energy (CHGNet, eV/atom)", fontsize=7)
    marker_style = {"linestyle": "none", "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.3}
    handles = [
        Line2D(
            [],
            [],
            marker="^",
            color=ALARM,
            label="fooled: better than known by the reward, unstable by the evaluator",
            **marker_style,
        ),
        Line2D([], [], marker="D", color=GREY, label="beyond the axes", **marker_style),
    ]
    if any(block.before for block in blocks):
        label = "the model that RL started from"
        handles.append(Line2D([], [], marker="o", color=BEFORE, label=label, **marker_style))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if n_columns > 1 else 1)
    return figure


def main(snakemake) -> None:
    started = time.perf_counter()
    with logging_to(snakemake.log[0], "plot_reward_audit") as log:
        threshold, by_system = snakemake.params.settings["stable_below_ev_per_atom"], {}
        for system, path in zip(named(snakemake.params.systems), as_paths(snakemake.input.audit), strict=True):
            rows = read_table(path, "reward_audit").to_pylist()
            by_system[system.key] = Block(system, audit_frame(rows, threshold), len(rows))
        starts = snakemake.params.before_rl
        blocks = [replace(block, before=by_system.get(starts.get(key))) for key, block in by_system.items()]
        with paper_style():
            save_figure(draw_figure(blocks), snakemake.output.pdf, snakemake.output.png)
        log.info("done: %d systems in %.1f s", len(blocks), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
