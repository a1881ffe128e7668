"""Plot Figures 1 and 3: generated crystals beside the same crystals relaxed with the evaluator."""

import time
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pymatgen.core import Composition

from hullseeker.report.drawing import (
    COLUMN_WIDTH_IN,
    GREY,
    PAGE_WIDTH_IN,
    Named,
    draw_element_key,
    draw_picture,
    empty_panel,
    named,
    paper_style,
    project_crystal,
    save_figure,
)
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import seed_for
from hullseeker.tables.parquet import check_children, read_table
from hullseeker.tables.results import as_paths
from hullseeker.tables.structures import to_atoms

PANEL_HEIGHT_IN, TITLE_HEIGHT_IN, HEADING_HEIGHT_IN = 1.5, 0.4, 0.36
KEY_HEIGHT_IN, GAP_IN, MARGIN_IN = 0.2, 0.5, 0.06
OFFSET_IN_ROWS = {"figure1": 0, "figure3": 1}


def join_tables(samples: Sequence[Mapping], **children: Sequence[Mapping]) -> list[dict]:
    """Return one dict per sample, with its row of every child table under the child's name.

    Raises TableError if the ids of a child table are not exactly those of the samples.
    """
    for name, rows in children.items():
        check_children([row["structure_id"] for row in rows], [row["structure_id"] for row in samples], name)
    by_id = {name: {row["structure_id"]: row for row in rows} for name, rows in children.items()}
    return [{"sample": row, **{name: rows[row["structure_id"]] for name, rows in by_id.items()}} for row in samples]


def choose_examples(rows: Sequence[Mapping], system: str, seed: int, n_rows: int, offset: int) -> list[dict]:
    """Return `n_rows` examples from index `offset` on, from all relaxed samples in random order.

    The order is a hash of seed, system and id: it does not depend on the crystals or on the number of samples.
    """
    relaxed = [row for row in rows if row["sample"]["status"] == "ok" and row["relaxed"]["status"] == "ok"]
    drawn = sorted(relaxed, key=lambda row: seed_for(seed, "plot_crystals", system, row["sample"]["structure_id"]))
    return drawn[offset : offset + n_rows]


def formula_text(formula: str) -> str:
    """Return a formula with subscripts, as Matplotlib mathtext."""
    return Composition(formula).to_latex_string().replace("$_{1}$", "")


def signed(value: float) -> str:
    """Return an energy with three decimals and a typographic minus sign; zero has no sign."""
    text = f"{value + 0.0:.3f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def title_of(example: Mapping) -> str:
    """Return the two lines above an example: formula; energy above hull, energy gain of the relaxation, and match."""
    sample, relaxed, hull, match = (example[name] for name in ("sample", "relaxed", "hull", "matches"))
    first = formula_text(sample["formula"])
    if sample["prompt_formula"] and sample["prompt_formula"] != sample["formula"]:
        first += f" (prompted: {formula_text(sample['prompt_formula'])})"
    energy = hull["e_above_hull_ev_per_atom"]
    parts = ["no hull reference" if energy is None else f"$E_\\mathrm{{hull}}$ {signed(energy)} eV/atom"]
    if hull["unreliable"]:
        parts[0] += " (unreliable hull)"
    if relaxed["initial_energy_ev_per_atom"] is not None:
        gain = relaxed["initial_energy_ev_per_atom"] - relaxed["energy_ev_per_atom"]
        parts.append(f"gain {signed(gain)} eV/atom")
    parts.append({True: "match: yes", False: "match: no", None: "match: not computed"}[match["matched"]])
    return f"{first}\n{' · '.join(parts)}"


def draw_example(axes: Axes, example: Mapping, width_in: float) -> None:
    """Draw generated and relaxed cell side by side, at the same scale, with the legend of elements below."""
    left, right = (project_crystal(to_atoms(example[name])) for name in ("sample", "relaxed"))
    boxes = [picture.box_ang for picture in (left, right)]
    width_ang, height_ang = max(b[2] - b[0] for b in boxes), max(b[3] - b[1] for b in boxes)
    ang_per_in = max(
        2 * width_ang / (width_in - GAP_IN - 4 * MARGIN_IN),
        height_ang / (PANEL_HEIGHT_IN - KEY_HEIGHT_IN - MARGIN_IN),
    )
    half_width = width_in * ang_per_in / 2
    axes.set(
        xlim=(-half_width, half_width),
        ylim=(-KEY_HEIGHT_IN * ang_per_in, (PANEL_HEIGHT_IN - KEY_HEIGHT_IN) * ang_per_in),
    )
    axes.set_axis_off()
    middle = (PANEL_HEIGHT_IN - KEY_HEIGHT_IN) / 2 * ang_per_in
    centre = max(half_width / 2, (width_ang + GAP_IN * ang_per_in) / 2)
    draw_picture(axes, left, -centre, middle)
    draw_picture(axes, right, centre, middle)
    arrow_end = 0.16 * ang_per_in
    arrow = {"arrowstyle": "-|>,head_width=0.18,head_length=0.35", "color": GREY, "lw": 1.0}
    axes.annotate("", (arrow_end, middle), (-arrow_end, middle), arrowprops=arrow)
    draw_element_key(axes, left.atomic_numbers, 0.0, -0.5 * KEY_HEIGHT_IN * ang_per_in, ang_per_in)
    axes.set_title(title_of(example), fontsize=6.5, pad=2, linespacing=1.35)


def draw_figure(blocks: Sequence[tuple[Named, Sequence[Mapping]]], n_rows: int, seed: int, offset: int) -> Figure:
    """Draw one block per system, in two columns; an empty panel states why there is no example."""
    n_columns = min(2, max(1, len(blocks)))
    n_block_rows = max(1, -(-len(blocks) // n_columns))
    width = PAGE_WIDTH_IN if n_columns == 2 else COLUMN_WIDTH_IN
    row_height = TITLE_HEIGHT_IN + PANEL_HEIGHT_IN
    block_width, block_height = width / n_columns, HEADING_HEIGHT_IN + n_rows * row_height
    figure = Figure(figsize=(width, n_block_rows * block_height))
    height = n_block_rows * block_height
    for number, (system, rows) in enumerate(blocks):
        left, top = number % n_columns * block_width, height - number // n_columns * block_height
        examples = choose_examples(rows, system.key, seed, n_rows, offset)
        n_relaxed = sum(row["relaxed"]["status"] == "ok" for row in rows)
        figure.text(
            (left + block_width / 2) / width,
            (top - 0.6 * HEADING_HEIGHT_IN) / height,
            f"{system.label}: generated → relaxed",
            ha="center",
            va="center",
            fontsize=8.5,
            fontweight="bold",
            color=system.colour,
        )
        for row in range(n_rows):
            bottom = top - HEADING_HEIGHT_IN - (row + 1) * row_height
            box = (left / width, bottom / height, block_width / width, PANEL_HEIGHT_IN / height)
            axes = figure.add_axes(box)
            if row < len(examples):
                draw_example(axes, examples[row], block_width)
            elif row == 0 or row == len(examples):
                reason = "no relaxed samples" if n_relaxed == 0 else f"no further relaxed samples ({n_relaxed} in all)"
                empty_panel(axes, f"{reason}, of {len(rows)} drawn")
            else:
                axes.set_axis_off()
    return figure


def main(snakemake) -> None:
    started = time.perf_counter()
    with logging_to(snakemake.log[0], "plot_crystals") as log:
        blocks, names = [], ("samples", "relaxed", "hull", "matches")
        paths = zip(*(as_paths(snakemake.input[name]) for name in names), strict=True)
        for system, files in zip(named(snakemake.params.systems), paths, strict=True):
            tables = {name: read_table(path, name).to_pylist() for name, path in zip(names, files, strict=True)}
            blocks.append((system, join_tables(tables.pop("samples"), **tables)))
        n_rows = snakemake.params.settings["n_rows"]
        with paper_style():
            figure = draw_figure(
                blocks, n_rows, snakemake.params.seed, n_rows * OFFSET_IN_ROWS[snakemake.params.figure]
            )
            save_figure(figure, snakemake.output.pdf, snakemake.output.png)
        log.info("done: %d systems, %d rows each, in %.1f s", len(blocks), n_rows, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
