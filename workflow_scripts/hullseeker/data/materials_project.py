"""Paged download of Materials Project documents with the official client (mp-api).

Needs: mp-api, pyarrow, pymatgen, tenacity.

Every page is written to a Parquet file when it arrives, which bounds memory use and lets an interrupted download
resume. The API key is read from the environment and never written.
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
from ase.data import atomic_numbers as NUMBER_OF  # noqa: N812  a constant
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
# The client's error message for a failed response.
_FAILED_RESPONSE = re.compile(r" with message:\n(?P<is_raw>Response )?(?P<text>.*)", re.DOTALL)
MATERIALS = SCHEMAS["materials"]


class ExtractionError(RuntimeError):
    """The download failed; the message says why and what to do, and never contains the key."""


class TransientError(ExtractionError):
    """A failure that is worth a retry: too many requests, a server error, a broken connection."""


class RefusedDocumentError(ValueError):
    """A document cannot be converted to a row; the message says why."""


class MaterialsProject:
    """Client of one endpoint, which returns documents (`summary` or `thermo`) as dictionaries and retries failures."""

    def __init__(self, endpoint: str, max_attempts: int, longest_wait_s: float, log: Callable = print) -> None:
        """Connect to the endpoint; raises ExtractionError if the key is missing or the server cannot be reached."""
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
            before_sleep=lambda state: log(self._retry_message(state)),
            reraise=True,
        )
        self.endpoint = endpoint

        def connect() -> MPRester:
            client = MPRester(self._key, endpoint=endpoint, use_document_model=False, mute_progress_bars=True)
            if not client.db_version:  # the client ignores a 403 here, and caches the result
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
    def _retry_message(state: RetryCallState) -> str:
        assert state.next_action is not None and state.outcome is not None
        error = state.outcome.exception()
        return f"attempt {state.attempt_number} failed, retry in {state.next_action.sleep:.1f} s: {error}"

    def count(self, kind: str, criteria: Mapping) -> int:
        """Return the number of documents that match the criteria."""
        return int(self._retrying(self._translated, lambda: self._rester(kind).count({"_limit": 1, **criteria})))

    def page(self, kind: str, criteria: Mapping, fields: Iterable[str], skip: int, limit: int) -> list[dict]:
        """Return documents `skip` to `skip + limit`; raises ExtractionError if retries of transient failures fail."""
        # The public search methods support neither an offset nor arbitrary filters; they are built on `_search`.
        query = {"num_chunks": 1, "chunk_size": limit, "all_fields": False, "fields": list(fields), "_skip": skip}
        return self._retrying(self._translated, lambda: self._rester(kind)._search(**query, **criteria))

    def _rester(self, kind: str):
        return getattr(self._client.materials, kind)

    def _translated(self, request: Callable):
        """Return `request()`; raises its errors as ExtractionError or TransientError, without the key."""
        try:
            return request()
        except (MPRestError, RequestException, orjson.JSONDecodeError, OSError, KeyError, TypeError) as error:
            description = without_secrets(f"{type(error).__name__}: {error}").replace(self._key, "<key>")
            body: str | None = None
            status = _STATUS.search(description)
            code = int(status.group(1)) if status else None
            is_network_error = isinstance(error.__context__, RequestException)
            if failure := _FAILED_RESPONSE.search(description):
                # The client quotes the `detail` of a JSON response, and the raw body of any other.
                body = failure["text"] if failure["is_raw"] else json.dumps(failure["text"])
            is_from_gateway = body is not None and is_page(body)
            if failure and body is not None and is_from_gateway:
                description = f"{description[: failure.start()]} by {page_in_words(body)} not the API's answer"
            elif isinstance(error, (orjson.JSONDecodeError, JSONDecodeError)):
                description = "the answer is a page of a gateway or proxy, not the API's JSON"
            elif isinstance(error, TypeError):
                description = f"the client cannot read the answer ({description})"
            description = " ".join(description.split())
        if code in (401, 403) and not is_refusal(code, body or ""):
            raise TransientError(f"{self.endpoint} failed: a gateway refused the request, not the API. {description}")
        if code in (401, 403):
            message = f"the Materials Project refused the API key ({code}); check {KEY_VARIABLE}. {description}"
        elif code is None and "32 characters" in description:
            message = f"{KEY_VARIABLE} holds no valid key: {description}"
        elif code is not None and code < 500 and code != 429 and not is_from_gateway:
            message = f"the request was refused; the API may have changed since this client. {description}"
        elif code is None and not is_network_error and description.startswith("MPRestError"):
            message = description
        else:
            raise TransientError(f"{self.endpoint} failed: {description}")
        raise ExtractionError(message)


@lru_cache(maxsize=100_000)
def _reduced(counts: tuple[tuple[str, int], ...]) -> str:
    return Composition(dict(counts)).reduced_formula


def structure_columns(structure: Mapping | None) -> dict:
    """Return structure columns and formula of a pymatgen dictionary; raises RefusedDocumentError if disordered."""
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
    """Return the material rows and the refusals of a page; raises ExtractionError if all documents lack a field."""
    for field in fields:
        if documents and all(field not in document for document in documents):
            raise ExtractionError(
                f"none of {len(documents)} documents has the field {field!r}; the API's schema has changed since this "
                "client: update mp-api, or report it to the developers of Hullseeker"
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
    """Return the columns of a summary document: the structure, and whether it is theoretical (not observed)."""
    return {**structure_columns(document.get("structure")), "is_theoretical": document.get("theoretical")}


def thermo_row(document: Mapping) -> dict:
    """Return the columns of a thermo document: structure, and energies (eV/atom) with and without corrections."""
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
    """Return all rows sorted by id, all refusals, and the number of documents on the server.

    Pages are cached under `cache_dir`, in a folder named by endpoint, database version and query, and are not requested
    again. Raises ExtractionError if the documents are not unique, or not as many as the server reported.
    """
    total = source.count(kind, criteria)
    query = {"kind": kind, "criteria": dict(criteria), "fields": fields, "page_size": page_size, "total": total}
    folder = Path(cache_dir) / sha256_of_json([source.endpoint, source.db_version, query])[:16]
    parts = [folder / f"{skip:08d}.parquet" for skip in range(0, total, page_size)]
    n_cached = sum(part.is_file() for part in parts)
    log(f"{kind}: {total} documents of database {source.db_version}, {n_cached} of {len(parts)} pages are cached")
    for number, part in progress(list(enumerate(parts)), f"Materials Project, {kind}"):
        if not _is_complete(part):
            documents = source.page(kind, criteria, fields, number * page_size, page_size)
            _write_page(part, *rows_of_page(documents, fields, to_row))
            log(f"{kind}: page {number + 1} of {len(parts)}")
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


def _is_complete(part: Path) -> bool:
    try:
        return b"refused" in (pq.read_schema(part).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _write_page(part: Path, rows: list[dict], refused: list[dict]) -> None:
    table = pa.Table.from_pylist(rows, schema=MATERIALS)
    table = table.replace_schema_metadata({"refused": json.dumps(refused)})
    with replacing(part) as beside:
        pq.write_table(table, beside, compression="zstd")
