"""Count what was refused, left out or failed in an experiment: one text line per kind, with the path of its list.

Needs: pyarrow.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Parts of an error text that vary between errors of one kind: quoted text, lists and numbers.
_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[-+]?\d[\d.e+-]*")
_N_REASONS, _REASON_LENGTH = 3, 100
# Folder of each step's tables: the name of the step in the failure ledger.
STEPS = {
    "samples": "sample",
    "relaxed": "relax",
    "hull": "hull",
    "matches": "match",
    "novelty": "novelty",
    "fingerprints": "fingerprint",
}
# These steps have one subfolder per evaluator.
STEPS_OF_EVALUATOR = ("relaxed", "hull", "matches")
_SELECTION = {
    "n_too_large": "larger than data.max_sites",
    "n_excluded": "with an element of data.exclude_elements",
    "n_unstable": "above data.max_e_above_hull_ev_per_atom",
}


@dataclass(frozen=True)
class Refused:
    """One part of the data set (train, val, test, materials, phases): its number of entries and its refused rows."""

    part: str
    n_entries: int
    rows: list[dict]

    @property
    def share(self) -> float:
        return len(self.rows) / self.n_entries if self.n_entries else 0.0

    @property
    def in_words(self) -> str:
        return f"{len(self.rows)} of {self.n_entries} entries ({100 * self.share:.1f}%)"


def by_reason(rows: Iterable[Mapping]) -> list[tuple[str, int, str]]:
    """Return (reason, count, id of the first row) for each reason of refusal, the most frequent first.

    Reasons that differ only in numbers and quoted text are counted together; the text is that of the first row.
    """
    first: dict[str, tuple[str, str]] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        error = " ".join(row["error"].split())
        kind = _PARTICULAR.sub("…", error)
        first.setdefault(kind, (error, row["structure_id"]))
        counts[kind] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(first[kind][0], n, first[kind][1]) for kind, n in ordered]


def reasons_in_words(rows: Iterable[Mapping], n_reasons: int = _N_REASONS) -> str:
    """Return the most frequent reasons as one line, each with its count and the id of its first row."""
    reasons = by_reason(rows)
    shown = [f"{_cut(reason)} ({n}, such as {name})" for reason, n, name in reasons[:n_reasons]]
    n_others = sum(n for _, n, _ in reasons[n_reasons:])
    return "; ".join([*shown, *([f"other reasons ({n_others})"] if n_others else [])])


def _cut(reason: str) -> str:
    return reason if len(reason) <= _REASON_LENGTH else reason[: _REASON_LENGTH - 1] + "…"


def refused_parts(read: str | Path, refused: str | Path) -> list[Refused]:
    """Return the refusals of each part of a data set, given the tables of accepted and of refused rows."""
    name = Path(read).stem
    table = pq.read_table(read, columns=["split"])
    n_read = Counter(split or name for split in table.column("split").to_pylist())
    rows: dict[str, list[dict]] = {}
    for row in pq.read_table(refused).to_pylist():
        rows.setdefault(row.get("split") or name, []).append(row)
    parts = []
    for part in sorted(n_read.keys() | rows.keys()):
        n_entries = n_read[part] + len(rows.get(part, []))
        # Documents of a database that a filter left out count as entries, not as refusals.
        documents = _metadata(table.schema, "extraction").get("n_documents", 0)
        parts.append(Refused(part, max(n_entries, documents), rows.get(part, [])))
    return parts


def _metadata(schema: pa.Schema, name: str) -> dict:
    return json.loads((schema.metadata or {}).get(name.encode(), b"{}"))


def too_many(part: Refused, max_share: float, path: str | Path, source: str = "files") -> str | None:
    """Return the error text if a larger share of a part was refused than allowed, else None."""
    if part.share <= max_share:
        return None
    data_set = f"data.{part.part}" if source in ("files", "mp20") else f"the {part.part} of {source}"
    return (
        f"{part.in_words} of {data_set} were refused, and data.max_refused_share is {max_share:g}; most often: "
        f"{reasons_in_words(part.rows)}; all of them are listed in {path}; correct the data, or raise "
        "data.max_refused_share if the rest is enough"
    )


def lines_of_experiment(
    results: str | Path, systems: Sequence[str] | None = None, evaluators: Sequence[str] | None = None
) -> list[str]:
    """Return one line per kind of refused, left-out or failed row, from the tables that exist so far.

    Systems and evaluators default to all that have a table. Counts of zero are not printed.
    """
    results = Path(results)
    lines = []
    for refused in sorted(results.glob("data/extracted/*_refused.parquet")):
        lines += _lines_of(refused, _line_of_refusals)
    lines += _lines_of(results / "data/materials.parquet", _line_of_selection)
    for name in _names(results / "data/phases_failed", evaluators):
        lines += _lines_of(results / "data/phases_failed" / f"{name}.parquet", _line_of_phases)
    for path in sorted(results.glob("curves/*.parquet")):
        lines += _lines_of(path, _line_of_training)
    for system in _names(results / "samples", systems):
        for folder, step in STEPS.items():
            has_evaluators = folder in STEPS_OF_EVALUATOR
            for evaluator in _folders(results / folder, evaluators) if has_evaluators else [""]:
                description = f"{system}, {step}{f' ({evaluator})' if evaluator else ''}"
                lines += _lines_of(
                    results / folder / evaluator / f"{system}.parquet", partial(_line_of_step, description=description)
                )
    return lines


def _lines_of(path: Path, summarize: Callable[[Path], list[str]]) -> list[str]:
    """Return the lines of one table: none if it does not exist, one with the error if it cannot be read."""
    if not path.is_file():
        return []
    try:
        return summarize(path)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        return [f"{path} cannot be counted ({' '.join(str(error).split())[:_REASON_LENGTH]})"]


def _line_of_refusals(path: Path) -> list[str]:
    read = path.with_name(f"{path.stem.removesuffix('_refused')}.parquet")
    return [
        f"{part.part}: {part.in_words} refused, most often: {reasons_in_words(part.rows)}: {path}"
        for part in (refused_parts(read, path) if read.is_file() else [])
        if part.rows
    ]


def _line_of_selection(path: Path) -> list[str]:
    selection = _metadata(pq.read_schema(path), "selection")
    left_out = [f"{selection[key]} {reason}" for key, reason in _SELECTION.items() if selection.get(key)]
    if not left_out:
        return []
    card = path.with_name("card.md")
    return [f"left out of training and test, of {selection['n_read']}: {', '.join(left_out)}: {card}"]


def _line_of_phases(path: Path) -> list[str]:
    rows = pq.read_table(path, columns=["structure_id", "error"]).to_pylist()
    description = f"competing phases without an energy ({path.stem})"
    return [f"{description}: {len(rows)}, most often: {reasons_in_words(rows)}: {path}"] if rows else []


def _line_of_training(path: Path) -> list[str]:
    left_out = _metadata(pq.read_schema(path), "left_out")
    counts = [f"{left_out[split]} of {split}" for split in ("train", "val") if left_out.get(split)]
    if not counts:
        return []
    return [f"{path.stem}, training: crystals left out: {', '.join(counts)}; {left_out['why']}: {path}"]


def _line_of_step(path: Path, description: str) -> list[str]:
    statuses = Counter(pq.read_table(path, columns=["status"]).column("status").to_pylist())
    n_rows = statuses.total()
    failed = {status: n for status, n in statuses.most_common() if status not in ("ok", "not_attempted")}
    if not failed:
        return []
    return [f"{description}: {', '.join(f'{status} {n}' for status, n in failed.items())}, of {n_rows} samples: {path}"]


def _names(folder: Path, names: Sequence[str] | None) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.parquet")) if names is None else list(names)


def _folders(folder: Path, names: Sequence[str] | None) -> list[str]:
    if names is not None:
        return list(names)
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
