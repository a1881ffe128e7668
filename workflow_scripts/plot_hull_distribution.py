"""Plot Figure 2, the distribution of energies above the hull of each system, and write its quantiles to a CSV file."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hullseeker.metrics.intervals import HIGH_PCT, LOW_PCT
from hullseeker.report.drawing import GREY, PAGE_WIDTH_IN, Named, empty_panel, named, paper_style, save_figure
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import seed_for
from hullseeker.tables.parquet import read_table
from hullseeker.tables.results import as_paths

N_BINS, N_GRID = 40, 400
NARROWEST_AXIS_EV_PER_ATOM, WIDEST_AXIS_EV_PER_ATOM = (-0.1, 0.5), (-1.0, 2.0)
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}


@dataclass(frozen=True)
class Block:
    """One system: sorted energies above a reliable hull (eV/atom), and the numbers of samples drawn and unreliable."""

    system: Named
    energies: np.ndarray
    n_drawn: int
    n_unreliable: int = 0

    @property
    def n(self) -> int:
        """Number of samples with an energy above the hull, reliable or not: the denominator of all shares."""
        return self.energies.size + self.n_unreliable


def block_of(system: Named, rows: Sequence[Mapping]) -> Block:
    """Return the block of a system, from its hull rows with status ok."""
    ok_rows = [row for row in rows if row["status"] == "ok"]
    energies = np.sort([row["e_above_hull_ev_per_atom"] for row in ok_rows if not row["unreliable"]]).astype(float)
    return Block(system, energies, len(rows), len(ok_rows) - energies.size)


def axis_range(samples: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the axis limits (eV/atom), rounded to 0.1: the range of all 2% and 90% quantiles, within fixed bounds."""
    low, high = NARROWEST_AXIS_EV_PER_ATOM
    for energies in samples:
        if energies.size:
            low, high = min(low, np.quantile(energies, 0.02)), max(high, np.quantile(energies, 0.9))
    low, high = max(low, WIDEST_AXIS_EV_PER_ATOM[0]), min(high, WIDEST_AXIS_EV_PER_ATOM[1])
    return round(float(np.floor(round(low * 10, 6)) / 10), 1), round(float(np.ceil(round(high * 10, 6)) / 10), 1)


def summary_row(block: Block, bounds: tuple[float, float]) -> dict:
    """Return the row of the CSV: counts and quantiles (eV/atom, linear interpolation), which are empty if n is 0."""
    system, energies = block.system, block.energies
    quantiles = np.quantile(energies, list(QUANTILES.values())) if energies.size else [None] * len(QUANTILES)
    beyond = int(np.sum((energies < bounds[0]) | (energies > bounds[1])))
    return {
        "system": system.key,
        "label": system.label,
        "n": int(energies.size),
        **dict(zip(QUANTILES, quantiles, strict=True)),
        "n_beyond_axis": beyond,
        "n_unreliable_hull": block.n_unreliable,
    }


def cumulative_share(block: Block, grid: np.ndarray) -> np.ndarray:
    """Return the share of samples with a reliable energy at or below each point of the sorted grid."""
    return np.searchsorted(block.energies, grid, side="right") / block.n


def bootstrap_band(shares: np.ndarray, n: int, seed: int, n_resamples: int) -> np.ndarray:
    """Return the 95% bootstrap band (2, n_grid) of an empirical distribution of `n` values.

    Instead of values, multinomial counts of the intervals between grid points are resampled, which is equivalent.
    """
    steps = np.diff(shares, prepend=0.0, append=1.0).clip(0.0)
    counts = np.random.default_rng(seed).multinomial(n, steps / steps.sum(), size=n_resamples)
    return np.percentile(counts.cumsum(axis=1)[:, :-1] / n, (LOW_PCT, HIGH_PCT), axis=0)


def draw_histogram(axes: Axes, drawn: Sequence[Block], bounds: tuple[float, float]) -> None:
    """Draw the share of relaxed samples per bin; separate outer bars show the samples beyond the axis limits."""
    edges = np.linspace(*bounds, N_BINS + 1)
    width = edges[1] - edges[0]
    outer_x = {-1: bounds[0] - 2.5 * width, 1: bounds[1] + 2.5 * width}
    for i, block in enumerate(drawn):
        system, energies = block.system, block.energies
        inside, _ = np.histogram(energies, edges)
        axes.stairs(100 * inside / block.n, edges, color=system.colour, linewidth=1.2)
        axes.stairs(100 * inside / block.n, edges, color=system.colour, fill=True, alpha=0.08, linewidth=0)
        for side, count in ((-1, (energies < bounds[0]).sum()), (1, (energies > bounds[1]).sum())):
            if count:
                x = outer_x[side] + (i - (len(drawn) - 1) / 2) * 2.6 * width / len(drawn)
                axes.bar(x, 100 * count / block.n, 2.6 * width / len(drawn), color=system.colour, alpha=0.85)
    for side, sign in ((-1, "<"), (1, ">")):
        if any(((block.energies - bounds[side > 0]) * side > 0).any() for block in drawn):
            label = f"{sign} {bounds[side > 0]:g}".replace("-", "−")
            axes.text(
                outer_x[side], -0.025, label, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=6
            )
    axes.set(ylabel="share of relaxed samples (%)", xlim=(bounds[0] - 5 * width, bounds[1] + 5 * width))
    # No ticks near the limits, where the labels of the outer bars are.
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(*bounds)
    axes.set_xticks([tick for tick in ticks if bounds[0] + 2 * width < tick < bounds[1] - 2 * width])
    axes.set_title("a  distribution; outer bars: beyond the axis", loc="left")


def draw_cumulative(
    axes: Axes, drawn: Sequence[Block], bounds: tuple[float, float], settings: Mapping, seed: int
) -> None:
    """Draw the cumulative distribution of each system with its bootstrap band and its median."""
    grid = np.linspace(*bounds, N_GRID)
    for block in drawn:
        system, shares = block.system, cumulative_share(block, grid)
        band_seed = seed_for(seed, "plot_hull_distribution", system.key)
        low, high = bootstrap_band(shares, block.n, band_seed, settings["n_bootstrap"])
        axes.fill_between(grid, 100 * low, 100 * high, color=system.colour, alpha=0.13, linewidth=0)
        axes.plot(grid, 100 * shares, color=system.colour)
        if bounds[0] <= (median := np.median(block.energies)) <= bounds[1]:
            axes.plot(
                median,
                50 * block.energies.size / block.n,
                "o",
                color=system.colour,
                markeredgecolor="white",
                markeredgewidth=0.6,
                markersize=5,
                zorder=5,
            )
    threshold = settings["stable_below_ev_per_atom"]
    axes.axhline(50, color=GREY, linewidth=0.4, zorder=0)
    axes.text(threshold, 101, f" stable below {threshold:g}", fontsize=6, color=GREY, va="bottom")
    axes.set(ylabel="relaxed samples at or below (%)", xlim=bounds, ylim=(0, 100))
    axes.set_title("b  cumulative; dots: medians", loc="left", pad=12)


def draw_figure(
    blocks: Sequence[Block],
    bounds: tuple[float, float],
    settings: Mapping,
    seed: int,
    title: str = "",
) -> Figure:
    """Draw both panels; systems without energies and samples with an unreliable hull appear only in the legend."""
    figure = Figure(figsize=(PAGE_WIDTH_IN, 3.1 if title else 2.9), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=8)
    left, right = figure.subplots(1, 2)
    drawn = [block for block in blocks if block.energies.size]
    if drawn:
        draw_histogram(left, drawn, bounds)
        threshold = settings["stable_below_ev_per_atom"]
        draw_cumulative(right, drawn, bounds, settings, seed)
        for axes in (left, right):
            axes.axvline(threshold, color=GREY, linestyle=(0, (4, 2)), linewidth=0.8, zorder=0)
            axes.set_xlabel("energy above hull (eV/atom)")
    else:
        for axes in (left, right):
            empty_panel(axes, "no relaxed samples")
    handles = []
    for block in blocks:
        system, n, n_drawn = block.system, block.energies.size, block.n_drawn
        counts = f"{n} of {n_drawn}" if n else f"no relaxed samples, of {n_drawn}"
        if block.n_unreliable:
            counts = f"{n} of {n_drawn}; {block.n_unreliable} unreliable"
        handles += left.plot([], [], color=system.colour, linewidth=2, label=f"{system.label} ({counts})")
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def main(snakemake) -> None:
    started = time.perf_counter()
    with logging_to(snakemake.log[0], "plot_hull_distribution") as log:
        blocks = []
        for system, path in zip(named(snakemake.params.systems), as_paths(snakemake.input.hull), strict=True):
            rows = read_table(path, "hull").to_pylist()
            blocks.append(block_of(system, rows))
        bounds = axis_range([block.energies for block in blocks])
        with paper_style():
            title = getattr(snakemake.params, "title", "")
            figure = draw_figure(blocks, bounds, snakemake.params.settings, snakemake.params.seed, title)
            save_figure(figure, snakemake.output.pdf, snakemake.output.png)
        with replacing(snakemake.output.csv) as temporary_path:
            pd.DataFrame([summary_row(block, bounds) for block in blocks]).to_csv(
                temporary_path, index=False, lineterminator="\n"
            )
        log.info("done: %d systems in %.1f s", len(blocks), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
