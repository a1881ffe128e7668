"""Make the data card: contents and origin of the data set, and what was left out, as one page and one figure."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure
from pymatgen.core import Composition, Element

from hullseeker.report.drawing import COLOURS, PAGE_WIDTH_IN, paper_style, save_figure
from hullseeker.report.refusals import reasons_in_words, refused_parts
from hullseeker.report.rendering import Cell, Grid, to_html, to_markdown
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.parquet import read_table

SPLITS = ("train", "val", "test")
N_SHOWN = 8
JAIN = "Jain et al., APL Materials 1, 011002 (2013), doi:10.1063/1.4812323"
# Licence and citation of each source, except for the user's files.
TERMS = {
    "materials_project": ("CC BY 4.0; entries of GNoME, where your account has them, CC BY-NC 4.0", JAIN),
    "mp20": ("files: MIT, with CDVAE; data: CC BY 4.0 (Materials Project)", f"Xie et al., arXiv:2110.06197; {JAIN}"),
    "demo": ("MIT, with this repository", "resources/README.md; prototypes: AFLOW, as in pymatgen"),
}
ENERGIES = {
    "energy_ev_per_atom": "energy of {source}",
    "e_above_hull_ev_per_atom": "E_hull by {source}",
    "database_e_above_hull_ev_per_atom": "E_hull of the database",
    "formation_energy_ev_per_atom": "formation energy of the database",
}


def metadata_of(table: pa.Table, name: str) -> dict:
    """Return a JSON entry of a table's metadata; empty if it is missing."""
    return json.loads((table.schema.metadata or {}).get(name.encode(), b"{}"))


def most_common(counts: Counter) -> str:
    """Return the most frequent items with their counts."""
    shown = ", ".join(f"{name} {n}" for name, n in counts.most_common(N_SHOWN))
    return shown + (f", and {len(counts) - N_SHOWN} more" if len(counts) > N_SHOWN else "")


def quartiles(values: pd.Series) -> str:
    """Return median, quartiles and count of energies as text."""
    low, median, high = values.quantile([0.25, 0.5, 0.75])
    return f"{median:.3f} ({low:.3f} to {high:.3f}) eV/atom, n {len(values)}"


def facts_of(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the contents of the data set: structures and formulas per split, elements, cells, prototypes, energies."""
    sets = frame["atomic_numbers"].map(lambda numbers: frozenset(int(z) for z in numbers))
    n_elements = Counter(f"{len(s)} element{'s' if len(s) > 1 else ''}:" for s in sets)
    stoichiometries = Counter(frame["formula"].map(lambda f: Composition(f).anonymized_formula))
    n_sites = frame["atomic_numbers"].map(len)
    facts = [("Structures", str(len(frame)))]
    for split in SPLITS:
        part = frame[frame["split"] == split]
        facts.append((f"of them {split}", f"{len(part)}, {part['formula'].nunique()} reduced formulas"))
    facts += [
        ("Elements", str(len(frozenset().union(*sets)))),
        ("By number of elements", ", ".join(f"{name} {n}" for name, n in sorted(n_elements.items()))),
        ("Atoms in a cell", f"{n_sites.min()} to {n_sites.max()}, median {n_sites.median():g}"),
        ("Stoichiometries", f"{len(stoichiometries)}: {most_common(stoichiometries)}"),
    ]
    prototypes = Counter(frame["prototype"].dropna())
    if prototypes:
        facts.append(("Prototypes", f"{len(prototypes)}: {most_common(prototypes)}"))
    source = ", ".join(sorted(frame["energy_source"].dropna().unique())) or "an unnamed source"
    for name, label in ENERGIES.items():
        values = frame[name].dropna()
        if len(values):
            facts.append((label.format(source=source), quartiles(values)))
    run_types = Counter(frame["run_type"].dropna())
    if run_types:
        facts.append(("Run types", most_common(run_types)))
    return facts


def origin_of(source: str, data: Mapping, extracted: pa.Table, path: str) -> list[tuple[str, str]]:
    """Return the origin of the data: query and version of the database or hashes of the files; licence and citation."""
    licence, citation = TERMS.get(source, (data["licence"], data["citation"]))
    extraction = metadata_of(extracted, "extraction")
    origin = [("Source", source)]
    if extraction:
        origin += [
            ("Endpoint", extraction["endpoint"]),
            ("Database version", extraction["database_version"]),
            ("Query", json.dumps(extraction["query"])),
            ("Documents", str(extraction["n_documents"])),
            ("Left out, too far above the hull", str(extraction["n_above_hull"])),
        ]
    hashes = metadata_of(extracted, "inputs_sha256") if source in ("files", "mp20") else {}
    origin += [(f"File {name}", f"SHA-256 {digest[:16]}…") for name, digest in hashes.items()]
    written = datetime.fromtimestamp(Path(path).stat().st_mtime, UTC).date().isoformat()
    if source != "demo":
        origin.append(("Read on", written))
    return [
        *origin,
        ("Licence", licence or "not given (data.licence)"),
        ("To cite", citation or "not given (data.citation)"),
    ]


def refused_of(path: str) -> list[tuple[str, str]]:
    """Return how much of each part of the data set was refused, by reason, and the path of the list."""
    read = Path(path).with_name(f"{Path(path).stem.removesuffix('_refused')}.parquet")
    return [
        (
            f"Refused ({part.part})",
            f"{part.in_words}: {reasons_in_words(part.rows, N_SHOWN)}; list: {path}" if part.rows else part.in_words,
        )
        for part in refused_parts(read, path)
    ]


def draw(frame: pd.DataFrame) -> Figure:
    """Return the figure: histograms of atoms per cell, of the most frequent elements, and of E_hull where known."""
    # Take E_hull from the first column with values: those of the database and of an evaluator have different scales.
    names = ("database_e_above_hull_ev_per_atom", "e_above_hull_ev_per_atom")
    e_above_hull = next((values for name in names if len(values := frame[name].dropna())), [])
    figure = Figure(figsize=(PAGE_WIDTH_IN, 2.2), layout="constrained")
    n_panels = 3 if len(e_above_hull) else 2
    panels = figure.subplots(1, n_panels, width_ratios=[1, 2, 1][:n_panels])
    n_sites = frame["atomic_numbers"].map(len)
    panels[0].hist(n_sites, bins=np.arange(0.5, n_sites.max() + 1.5), color=COLOURS[0])
    panels[0].set(xlabel="atoms in a cell", ylabel="structures")
    counts = Counter(z for numbers in frame["atomic_numbers"] for z in {int(z) for z in numbers}).most_common(30)
    panels[1].bar([Element.from_Z(z).symbol for z, _ in counts], [n for _, n in counts], color=COLOURS[0])
    panels[1].set(xlabel="elements, the 30 most frequent" if len(counts) == 30 else "elements", ylabel="structures")
    panels[1].tick_params(axis="x", labelsize=4.5, length=0)
    if len(e_above_hull):
        panels[2].hist(e_above_hull, bins=30, color=COLOURS[0])
        panels[2].set(xlabel=f"E$_{{hull}}$ (eV/atom), n {len(e_above_hull)}", ylabel="structures")
    return figure


def main(snakemake) -> None:
    inputs, params = snakemake.input, snakemake.params
    with logging_to(snakemake.log[0], "make_data_card") as log:
        table = read_table(inputs.materials, "materials")
        extracted = read_table(inputs.extracted, "materials")
        frame = table.drop_columns(["lattice_ang", "frac_coords"]).to_pandas()
        frame = frame[frame["left_out"].isna()]
        selection, leaks = metadata_of(table, "selection"), pd.read_csv(inputs.leaks)
        # The list also has crystals that could not be compared; they are no leaks.
        in_train_and_test = leaks["splits"].map(lambda splits: {"train", "test"} <= set(splits.split()))
        n_leaks = int((in_train_and_test | (leaks["n_duplicate_pairs"] > 0)).sum())
        facts = origin_of(params.source, params.data, extracted, inputs.extracted) + facts_of(frame)
        facts += [
            ("Made primitive, to fit data.max_sites", str(selection["n_made_primitive"])),
            ("Left out, cell too large", str(selection["n_too_large"])),
            ("Left out, excluded element", str(selection["n_excluded"])),
            ("Left out, too far above the hull", str(selection["n_unstable"])),
            ("Leaks between splits", str(n_leaks) if n_leaks else "none: no formula and no crystal in two"),
        ]
        for path in inputs.refused:
            facts += refused_of(path)
        for path in inputs.phases:
            facts.append((f"Competing phases ({Path(path).stem})", str(read_table(path, "materials").num_rows)))
        for path in inputs.embedded:
            n = read_table(path, "materials").num_rows
            facts.append((f"Competing phases, embedded ({Path(path).stem})", str(n)))
        grid: Grid = [[Cell("What"), Cell("Value")], *([Cell(name), Cell(value)] for name, value in facts)]
        title = f"Data card: {params.experiment}"
        with replacing(snakemake.output.md) as temporary_path:
            temporary_path.write_text(to_markdown(title, grid, []))
        with replacing(snakemake.output.html) as temporary_path:
            temporary_path.write_text(to_html(title, grid, [], prose=True))
        with paper_style():
            save_figure(draw(frame), snakemake.output.pdf, snakemake.output.png)
        log.info("done: %d facts", len(facts))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
