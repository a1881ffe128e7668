"""A table of results as Markdown, LaTeX and a self-contained HTML page.

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
.interval{display:block;font-size:80%;color:#666}.paper{background:#f4f1e8;color:#5a4a1c}
code{display:block;font-size:65%;font-weight:normal;color:#888;overflow-wrap:anywhere}
.scroll{overflow-x:auto}li{max-width:50em}"""
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "Å": r"\AA{}"} | {
    **{c: "\\" + c for c in "&%$#_{}"},
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "ρ": r"$\rho$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "<": "$<$",
    ">": "$>$",
}


@dataclass(frozen=True)
class Column:
    """A printed column: its name in the CSV, its heading, and one (value, 95% interval or "") per row."""

    name: str
    heading: str
    cells: list[tuple[str, str]]

    @property
    def is_paper(self) -> bool:
        return self.name.endswith("_paper_value")


def n_rows(columns: Sequence[Column]) -> int:
    """Return the number of rows that all columns have."""
    return len(columns[0].cells)


def to_markdown(title: str, columns: Sequence[Column], notes: Sequence[str]) -> str:
    """Return a Markdown table; intervals follow the value in brackets."""
    heads = [f"{c.heading}<br>`{c.name}`" if c.heading not in (c.name, "System") else c.heading for c in columns]
    aligned = ["---"] + ["---:"] * (len(columns) - 1)
    body = [[" ".join(filter(None, c.cells[i])).replace("|", "\\|") for c in columns] for i in range(n_rows(columns))]
    lines = ["| " + " | ".join(line) + " |" for line in (heads, aligned, *body)]
    return "\n".join([f"### {title}", "", *lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def to_html(title: str, columns: Sequence[Column], notes: Sequence[str]) -> str:
    """Return one page that needs nothing beside it; intervals under the value, the paper's columns tinted."""
    kinds = [' class="paper"' if c.is_paper else "" for c in columns]
    heads = "".join(
        f"<th{kind}>{escape(c.heading)}<code>{escape(c.name)}</code></th>"
        for kind, c in zip(kinds, columns, strict=True)
    )
    rows = ""
    for i in range(n_rows(columns)):
        cells = ((kind, *c.cells[i]) for kind, c in zip(kinds, columns, strict=True))
        under = ((k, escape(v), f'<span class="interval">{escape(ci)}</span>' if ci else "") for k, v, ci in cells)
        rows += "<tr>" + "".join(f"<td{k}>{v}{ci}</td>" for k, v, ci in under) + "</tr>\n"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n'
        f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>\n</body></html>\n"
    )


def tex(text: str) -> str:
    """Escape text for LaTeX, character by character."""
    return "".join(_TEX.get(character, character) for character in text)


def to_latex(title: str, columns: Sequence[Column], notes: Sequence[str]) -> str:
    """Return a LaTeX table (booktabs, array): the interval on a line of its own under the value."""
    lines = [f"% columns: {', '.join(c.name for c in columns)}", r"\begin{table*}\centering\scriptsize"]
    lines += [r"\setlength{\tabcolsep}{3pt}", rf"\caption{{{tex(title)}}}"]
    widths = "".join(r">{\raggedleft\arraybackslash}p{1.35cm}" for _ in columns[1:])
    lines += [rf"\begin{{tabular}}{{l{widths}}}", r"\toprule"]
    lines += [" & ".join(tex(c.heading) for c in columns) + r" \\", r"\midrule"]
    for i in range(n_rows(columns)):
        lines.append(" & ".join(tex(c.cells[i][0]) for c in columns) + r" \\")
        if any(c.cells[i][1] for c in columns):
            lines.append(
                " & ".join(rf"{{\tiny {tex(c.cells[i][1])}}}" if c.cells[i][1] else "" for c in columns) + r" \\"
            )
    lines += [r"\bottomrule", r"\end{tabular}", *(rf"\par\raggedright {tex(note)}" for note in notes), r"\end{table*}"]
    return "\n".join(lines) + "\n"
