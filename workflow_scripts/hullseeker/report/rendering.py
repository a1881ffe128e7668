"""Render a table of results as Markdown, LaTeX and a self-contained HTML page.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2em;color:#1a1a1a;background:#fff}
table{border-collapse:collapse;border-top:2px solid #222;border-bottom:2px solid #222}
th,td{padding:.4em .8em;text-align:right;vertical-align:top;white-space:nowrap}
thead th{border-bottom:1px solid #222;white-space:normal;min-width:5em;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}
td{font-variant-numeric:tabular-nums}tbody tr+tr td{border-top:1px solid #e4e4e4}
td:first-child{white-space:normal;min-width:16em}td.paper,th.paper,td.paper:first-child{background:#f4f1e8}
.interval{display:block;font-size:80%;color:#666}.paper{background:#f4f1e8;color:#5a4a1c}
code{display:block;font-size:65%;font-weight:normal;color:#888;overflow-wrap:anywhere}
.prose th,.prose td{text-align:left;white-space:normal;max-width:45em}
.scroll{overflow-x:auto}li{max-width:50em}"""
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "Å": r"\AA{}"} | {
    **{c: "\\" + c for c in "&%$#_{}"},
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "ρ": r"$\rho$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "<": "$<$",
    ">": "$>$",
}


@dataclass(frozen=True)
class Column:
    """A column of results: its name in the CSV, its heading, and one (value, 95% interval or "") pair per system."""

    name: str
    heading: str
    cells: list[tuple[str, str]]

    @property
    def is_paper(self) -> bool:
        return self.name.endswith("_paper_value")


@dataclass(frozen=True)
class Cell:
    """A printed cell: its text, a second line in small type, its name in the CSV, and whether it is a paper value."""

    text: str
    under: str = ""
    code: str = ""
    is_paper: bool = False


Grid = list[list[Cell]]  # rows; the first holds the headings


def n_rows(columns: Sequence[Column]) -> int:
    """Return the number of rows, which is the same for all columns."""
    return len(columns[0].cells)


def systems_down(columns: Sequence[Column]) -> Grid:
    """Return the grid with one row per system and one column per quantity."""
    heads = [Cell(c.heading, code=c.name if c.heading != c.name else "", is_paper=c.is_paper) for c in columns]
    return [heads] + [[Cell(*c.cells[i], is_paper=c.is_paper) for c in columns] for i in range(n_rows(columns))]


def systems_across(columns: Sequence[Column]) -> Grid:
    """Return the grid with one column per system and one row per quantity; `columns` starts with the systems."""
    systems, *quantities = columns
    heads = [Cell(systems.heading), *(Cell(text) for text, _ in systems.cells)]
    return [heads] + [
        [
            Cell(c.heading, code=c.name if c.heading != c.name else "", is_paper=c.is_paper),
            *(Cell(*cell, is_paper=c.is_paper) for cell in c.cells),
        ]
        for c in quantities
    ]


def to_markdown(title: str, grid: Grid, notes: Sequence[str]) -> str:
    """Return a Markdown table; each interval follows its value in brackets."""

    def format_cell(cell: Cell) -> str:
        text = " ".join(filter(None, (cell.text, cell.under))).replace("|", "\\|")
        return f"{text}<br>`{cell.code}`" if cell.code else text

    heads, *body = [[format_cell(cell) for cell in row] for row in grid]
    aligned = ["---"] + ["---:"] * (len(heads) - 1)
    lines = ["| " + " | ".join(line) + " |" for line in (heads, aligned, *body)]
    return "\n".join([f"### {title}", "", *lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def to_html(title: str, grid: Grid, notes: Sequence[str], prose: bool = False) -> str:
    """Return a self-contained page with intervals under their values and the paper's values tinted.

    With `prose` the cells hold text, which is left-aligned and wrapped.
    """

    def format_cell(cell: Cell, tag: str) -> str:
        kind = ' class="paper"' if cell.is_paper else ""
        under = f'<span class="interval">{escape(cell.under)}</span>' if cell.under else ""
        code = f"<code>{escape(cell.code)}</code>" if cell.code else ""
        return f"<{tag}{kind}>{escape(cell.text)}{under}{code}</{tag}>"

    kind = "prose" if prose else "numbers"
    heads, *body = grid
    head = "".join(format_cell(cell, "th") for cell in heads)
    rows = "".join("<tr>" + "".join(format_cell(cell, "td") for cell in row) + "</tr>\n" for row in body)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        f'<div class="scroll"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
        f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>\n</body></html>\n"
    )


def tex(text: str) -> str:
    """Escape text for LaTeX, character by character."""
    return "".join(_TEX.get(character, character) for character in text)


def to_latex(title: str, grid: Grid, notes: Sequence[str]) -> str:
    """Return a LaTeX table (booktabs) with each interval on a line of its own under its value."""
    heads, *body = grid
    codes = [cell.code for row in zip(*grid, strict=True) for cell in row if cell.code]
    lines = [f"% in the CSV: {', '.join(codes)}", r"\begin{table*}\centering\small", rf"\caption{{{tex(title)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule"]
    lines += [" & ".join(tex(cell.text) for cell in heads) + r" \\", r"\midrule"]
    for row in body:
        lines.append(" & ".join(tex(cell.text) for cell in row) + r" \\")
        if any(cell.under for cell in row):
            lines.append(" & ".join(rf"{{\scriptsize {tex(c.under)}}}" if c.under else "" for c in row) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", *(rf"\par\raggedright {tex(note)}" for note in notes), r"\end{table*}"]
    return "\n".join(lines) + "\n"
