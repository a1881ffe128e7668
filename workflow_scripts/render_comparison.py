"""The comparison of trained systems for people: Markdown, LaTeX and a self-contained HTML page."""

from collections.abc import Mapping

import pandas as pd

from hullseeker.logs import logging_to
from hullseeker.rendering import Column, systems_across, to_html, to_latex, to_markdown
from hullseeker.tables import replacing
from render_tables import number

TITLE = "Comparison of trained systems"
# Column, its heading, decimals.
QUANTITIES = (
    ("stability_rate_prompted_pct", "Stable and as prompted, of all (%)", 1),
    ("sun_pct", "Stable, unique, novel, of all (%)", 1),
    ("match_rate_pct", "Relaxed matches generated (%)", 1),
    ("structure_diversity", "Structure diversity", 3),
    ("composition_diversity", "Composition diversity", 3),
    ("structure_novelty", "Structure novelty", 3),
    ("composition_novelty", "Composition novelty", 3),
    ("unique_pct", "Unique, of all (%)", 1),
    ("stability_rate_pct", "Stable, of relaxed (%)", 1),
    ("stability_rate_as_generated_pct", "Stable before relaxation and as prompted, of all (%)", 1),
    ("formula_match_pct", "Formula as prompted, of all (%)", 1),
    ("parse_rate_pct", "Is a crystal, of all (%)", 1),
)


def with_interval(row: Mapping, name: str, decimals: int, sign: str = "") -> tuple[str, str]:
    """Return a value and its interval as printed; `sign` + shows the sign of a difference."""
    if pd.isna(row[name]):
        return number(None, decimals), ""
    value, low, high = (f"{row[n]:{sign}.{decimals}f}" for n in (name, f"{name}_ci_low", f"{name}_ci_high"))
    return value.replace("-", "−"), f"[{low}, {high}]".replace("-", "−")


def columns_of(frame: pd.DataFrame, baseline: str) -> list[Column]:
    """Return the printed lines: each quantity, its values by seed, its difference and its ratio to the baseline."""
    pooled = frame[frame["replicate"].isna()].to_dict("records")
    label = next(row["label"] for row in pooled if row["system"] == baseline)
    columns = [Column("label", "System", [(row["label"], "") for row in pooled])]
    for name, heading, decimals in QUANTITIES:
        if name not in frame:
            continue
        columns.append(Column(name, heading, [with_interval(row, name, decimals) for row in pooled]))
        if frame["replicate"].notna().any():
            cells = [(", ".join(seeds_of(frame, row["system"], name, decimals)), "") for row in pooled]
            columns.append(Column("by seed", "by seed", cells))
        for kind, words, places, sign in (
            ("difference", f"less {label}'s", decimals, "+"),
            ("ratio", f"by {label}'s", 2, ""),
        ):
            of_others = [
                with_interval(row, f"{name}_{kind}", places, sign) if row["system"] != baseline else ("", "")
                for row in pooled
            ]
            columns.append(Column(f"{name}_{kind}", words, of_others))
    columns.append(Column("n_samples", "n drawn", [(f"{row['n_samples']}", "") for row in pooled]))
    return columns


def seeds_of(frame: pd.DataFrame, system: str, name: str, decimals: int) -> list[str]:
    """Return the values of a system's replicates; its own where it has one."""
    of_system = frame[frame["system"] == system]
    some = of_system[of_system["replicate"].notna()]
    return [number(value, decimals) for value in (some if len(some) else of_system)[name]]


def main(snakemake) -> None:
    params = snakemake.params
    with logging_to(snakemake.log[0], "render_comparison") as log:
        grid = systems_across(columns_of(pd.read_csv(snakemake.input.comparison), params.baseline))
        for kind, render in {"md": to_markdown, "tex": to_latex, "html": to_html}.items():
            with replacing(getattr(snakemake.output, kind)) as beside:
                beside.write_text(render(TITLE, grid, params.footnotes), encoding="utf-8")
        log.info("done: %d lines", len(grid) - 1)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
