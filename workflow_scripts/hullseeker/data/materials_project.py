"""Documents of the Materials Project, page by page, through its official client.

Needs: mp-api, pyarrow, pymatgen, tenacity.

Every page becomes a Parquet file as soon as it is there, so that memory stays flat and an interrupted download goes
on where it was. The API key is taken from the environment and written nowhere.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from ase.data import atomic_numbers as NUMBER_OF  # noqa: N812  a table, used as one
from mp_api.client import MPRester
from mp_api.client.core.exceptions import MPRestError
from pymatgen.core import Composition
from requests.exceptions import JSONDecodeError, RequestException
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.credentials import KEY_VARIABLE, problem_with_secret, without_secrets
from hullseeker.runtime.http_requests import is_page, is_refusal, page_in_words
from hullseeker.runtime.logs import progress
from hullseeker.runtime.provenance import sha256_of_json
from hullseeker.tables.schemas import SCHEMAS

_STATUS = re.compile(r"status code (\d{3})")
# How the client words an answer that is none.
_ANSWER = re.compile(r" with message:\n(?P<whole>Response )?(?P<text>.*)", re.DOTALL)
MATERIALS = SCHEMAS["materials"]


class ExtractionError(RuntimeError):
    """The Materials Project cannot be read; the message says why and what to do, and never names the key."""


class TransientError(ExtractionError):
    """A failure that may pass: too many requests, a server error, a broken connection."""


class RefusedDocumentError(ValueError):
    """A document that cannot become a row; the message says why."""


class MaterialsProject:
    """One endpoint's documents of one kind (`summary` or `thermo`), as plain dictionaries."""

    def __init__(self, endpoint: str, max_attempts: int, longest_wait_s: float, log: Callable = print) -> None:
        """Connect; raises ExtractionError where the key is missing or the server cannot be reached."""
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not self._key:
            raise ExtractionError(
                f"{KEY_VARIABLE} is not set; get a key at https://materialsproject.org/api and export it in the "
                "environment (not in the config), or use data.source: files"
            )
        if problem := problem_with_secret(KEY_VARIABLE, self._key):
            raise ExtractionError(f"{problem}; copy the key again from https://materialsproject.org/api")
        self._retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(max_attempts),
            wait=wait_exponential(multiplier=min(1.0, longest_wait_s), max=longest_wait_s),
            before_sleep=lambda state: log(self._says(state)),
            reraise=True,
        )
        self.endpoint = endpoint

        def connect() -> MPRester:
            client = MPRester(self._key, endpoint=endpoint, use_document_model=False, mute_progress_bars=True)
            if not client.db_version:  # so the client takes a 403, and remembers it
                type(client)._get_heartbeat_info.cache_clear()
                raise TransientError(
                    f"{endpoint} does not say its database version, as when a gateway answers in its place; see "
                    "status.materialsproject.org"
                )
            return client

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._client = self._retrying(self._translated, connect)
        self.db_version = str(self._client.db_version)

    @staticmethod
    def _says(state: RetryCallState) -> str:
        assert state.next_action is not None and state.outcome is not None
        error = state.outcome.exception()
        return f"attempt {state.attempt_number} failed, again in {state.next_action.sleep:.1f} s: {error}"

    def count(self, kind: str, criteria: Mapping) -> int:
        """Return how many documents fit."""
        return int(self._retrying(self._translated, lambda: self._rester(kind).count({"_limit": 1, **criteria})))

    def page(self, kind: str, criteria: Mapping, fields: Iterable[str], skip: int, limit: int) -> list[dict]:
        """Return documents `skip` to `skip + limit`; retried while the failure is transient, ExtractionError then."""
        # The client's public search takes neither a starting point nor plain filters for every kind; this is its base.
        ask = {"num_chunks": 1, "chunk_size": limit, "all_fields": False, "fields": list(fields), "_skip": skip}
        return self._retrying(self._translated, lambda: self._rester(kind)._search(**ask, **criteria))

    def _rester(self, kind: str):
        return getattr(self._client.materials, kind)

    def _translated(self, ask: Callable):
        """Call; raise what went wrong as ours, without the key in it."""
        try:
            return ask()
        except (MPRestError, RequestException, orjson.JSONDecodeError, OSError, KeyError, TypeError) as error:
            words = without_secrets(f"{type(error).__name__}: {error}").replace(self._key, "<key>")
            answer: str | None = None
            status = _STATUS.search(words)
            code = int(status.group(1)) if status else None
            cause = isinstance(error.__context__, RequestException)
            if found := _ANSWER.search(words):
                # Of JSON, the client shows what it says in `detail`; what has none, it shows whole.
                answer = found["text"] if found["whole"] else json.dumps(found["text"])
            of_gateway = answer is not None and is_page(answer)
            if found and answer is not None and of_gateway:
                words = f"{words[: found.start()]} by {page_in_words(answer)} not the API's answer"
            elif isinstance(error, (orjson.JSONDecodeError, JSONDecodeError)):
                words = "the answer is a page of a gateway or proxy, not the API's JSON"
            elif isinstance(error, TypeError):
                words = f"the client cannot read the answer ({words})"
            words = " ".join(words.split())
        if code in (401, 403) and not is_refusal(code, answer or ""):
            raise TransientError(f"{self.endpoint} failed: a gateway refused the request, not the API. {words}")
        if code in (401, 403):
            message = f"the Materials Project refused the API key ({code}); check {KEY_VARIABLE}. {words}"
        elif code is None and "32 characters" in words:
            message = f"{KEY_VARIABLE} holds no valid key: {words}"
        elif code is not None and code < 500 and code != 429 and not of_gateway:
            message = f"the request was refused; the API may have changed since this client. {words}"
        elif code is None and not cause and words.startswith("MPRestError"):
            message = words
        else:
            raise TransientError(f"{self.endpoint} failed: {words}")
        raise ExtractionError(message)


@lru_cache(maxsize=100_000)
def _reduced(counts: tuple[tuple[str, int], ...]) -> str:
    return Composition(dict(counts)).reduced_formula


def structure_columns(structure: Mapping | None) -> dict:
    """Return structure columns and reduced formula of a pymatgen dictionary; RefusedDocumentError where disordered."""
    try:
        if structure is None:
            raise TypeError("'NoneType' object is not subscriptable")
        lattice = [float(x) for vector in structure["lattice"]["matrix"] for x in vector]
        symbols: list[str] = []
        coordinates: list[float] = []
        for site in structure["sites"]:
            if len(site["species"]) != 1 or site["species"][0].get("occu", 1) != 1:
                raise RefusedDocumentError("a site is partially occupied")
            symbols.append(site["species"][0]["element"])
            coordinates += map(float, site["abc"])
        numbers = [NUMBER_OF[symbol] for symbol in symbols]
    except (KeyError, TypeError, IndexError) as error:
        raise RefusedDocumentError(f"no readable structure ({type(error).__name__}: {error})") from None
    return {
        "lattice_ang": lattice,
        "atomic_numbers": numbers,
        "frac_coords": coordinates,
        "formula": _reduced(tuple(sorted(Counter(symbols).items()))),
    }


def rows_of_page(documents: list[dict], fields: Iterable[str], to_row: Callable) -> tuple[list[dict], list[dict]]:
    """Return material rows and refusals of a page; ExtractionError where a field is missing in all of it."""
    for field in fields:
        if documents and all(field not in document for document in documents):
            raise ExtractionError(
                f"none of {len(documents)} documents has the field {field!r}; the API's schema has changed since this "
                "client: update mp-api, and tell us"
            )
    rows, refused = [], []
    for document in documents:
        structure_id = str(document.get("material_id"))
        try:
            rows.append({"structure_id": structure_id, **to_row(document)})
        except RefusedDocumentError as error:
            refused.append({"structure_id": structure_id, "error": str(error)})
    return rows, refused


def summary_row(document: Mapping) -> dict:
    """Return the columns of a summary document: the structure, and whether it is known from theory alone."""
    return {**structure_columns(document.get("structure")), "is_theoretical": document.get("theoretical")}


def thermo_row(document: Mapping) -> dict:
    """Return the columns of a thermo document: the entry's structure and energies (eV/atom), corrected and not."""
    run_type = document.get("energy_type")
    entry = (document.get("entries") or {}).get(run_type)
    if entry is None:
        raise RefusedDocumentError(f"no entry of its energy type {run_type!r}")
    for name in ("energy_per_atom", "energy_above_hull"):
        if document.get(name) is None:
            raise RefusedDocumentError(f"no {name}")
    return {
        **structure_columns(entry.get("structure")),
        "corrected_energy_ev_per_atom": document["energy_per_atom"],
        "uncorrected_energy_ev_per_atom": document.get("uncorrected_energy_per_atom"),
        "formation_energy_ev_per_atom": document.get("formation_energy_per_atom"),
        "database_e_above_hull_ev_per_atom": document.get("energy_above_hull"),
        "run_type": run_type,
    }


def download(
    source: MaterialsProject,
    kind: str,
    criteria: Mapping,
    fields: tuple[str, ...],
    to_row: Callable,
    cache_dir: str | Path,
    page_size: int,
    log: Callable,
) -> tuple[pa.Table, list[dict], int]:
    """Return all rows sorted by id, refusals, and the number of documents the server has.

    Pages lie under `cache_dir`, in a folder named by endpoint, database version and query; those that are there are
    not asked for again. Raises ExtractionError where the documents are not, each once, as many as the server said.
    """
    total = source.count(kind, criteria)
    query = {"kind": kind, "criteria": dict(criteria), "fields": fields, "page_size": page_size, "total": total}
    folder = Path(cache_dir) / sha256_of_json([source.endpoint, source.db_version, query])[:16]
    parts = [folder / f"{skip:08d}.parquet" for skip in range(0, total, page_size)]
    there = sum(part.is_file() for part in parts)
    log(f"{kind}: {total} documents of database {source.db_version}, {there} of {len(parts)} pages are there already")
    for place, part in progress(list(enumerate(parts)), f"Materials Project, {kind}"):
        if not _is_whole(part):
            documents = source.page(kind, criteria, fields, place * page_size, page_size)
            _write_page(part, *rows_of_page(documents, fields, to_row))
            log(f"{kind}: page {place + 1} of {len(parts)}")
    tables, refused = [], []
    for part in parts:
        tables.append(pq.read_table(part, schema=MATERIALS))
        refused += json.loads(pq.read_schema(part).metadata[b"refused"])
    table = pa.concat_tables(tables) if tables else MATERIALS.empty_table()
    ids = Counter(table.column("structure_id").to_pylist()) + Counter(row["structure_id"] for row in refused)
    if len(ids) != total or ids.total() != total:
        for part in parts:
            part.unlink(missing_ok=True)
        raise ExtractionError(
            f"the server said {total} {kind} documents, the pages hold {ids.total()}, {len(ids)} of them different; "
            "its data changed meanwhile. The pages are deleted: run again"
        )
    return table.sort_by("structure_id"), sorted(refused, key=lambda row: row["structure_id"]), total


def _is_whole(part: Path) -> bool:
    try:
        return b"refused" in (pq.read_schema(part).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _write_page(part: Path, rows: list[dict], refused: list[dict]) -> None:
    table = pa.Table.from_pylist(rows, schema=MATERIALS)
    table = table.replace_schema_metadata({"refused": json.dumps(refused)})
    with replacing(part) as beside:
        pq.write_table(table, beside, compression="zstd")
