"""A local server with the part of the Materials Project's API that its client uses, which can fail on request.

Documents are built with the models of emmet-core, so that they have the structure of the real API. Query parameters
unknown to the real server are refused here as well.
"""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from urllib.parse import parse_qs, urlparse

from emmet.core.thermo import ThermoDoc
from emmet.core.types.enums import ThermoType
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

KEY = "k" * 32
DATABASE_VERSION = "2025.09.25"
MAX_LIMIT = 1000
PARAMETERS = {
    "summary": {"deprecated", "theoretical", "_sort_fields"},
    "thermo": {"thermo_types"},
}
PAGING = {"_skip", "_limit", "_fields"}

Fault = Callable[["Handler"], bool]


def rock_salt(cation: str, anion: str, a_ang: float) -> Structure:
    half = a_ang / 2
    cell = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
    return Structure(cell, [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def some_documents() -> tuple[list[dict], list[dict]]:
    """Return summary and thermo documents of nine rock salts and their elements."""
    cations, anions = ("Li", "Na", "K"), ("F", "Cl", "Br")
    structures = [Structure(Lattice.cubic(3.5 + 0.1 * i), [e], [[0, 0, 0]]) for i, e in enumerate(cations + anions)]
    structures += [rock_salt(c, a, 5.0 + 0.1 * i) for i, (c, a) in enumerate(product(cations, anions))]
    summaries, thermos = [], []
    entries = []
    for i, structure in enumerate(structures):
        energy = -1.0 * len(structure) - 2.0 * (len(structure) > 1) + 0.01 * i
        entries.append(
            ComputedStructureEntry(
                structure,
                energy,
                correction=-0.5 if len(structure) > 1 else 0.0,
                parameters={"run_type": "GGA", "is_hubbard": False, "hubbards": {}},
                data={"material_id": f"mp-{i + 1}", "task_id": f"mp-{i + 1}", "run_type": "GGA"},
                entry_id=f"mp-{i + 1}-GGA",
            )
        )
    for document in ThermoDoc.from_entries(entries, thermo_type=ThermoType.GGA_GGA_U, deprecated=False):
        thermos.append(json.loads(document.model_dump_json()))
    for document in thermos:
        structure = Structure.from_dict(document["entries"]["GGA"]["structure"])
        summaries.append(
            {
                "material_id": document["material_id"],
                "structure": structure.as_dict(),
                "theoretical": len(structure) > 1 and "Br" in structure.composition,
                "deprecated": False,
                "nsites": len(structure),
                "elements": sorted(e.symbol for e in structure.composition),
            }
        )
    return sorted(summaries, key=lambda d: d["material_id"]), thermos


class Handler(BaseHTTPRequestHandler):
    """Handle one request; the faults of the server are tried in turn, and the first one that applies answers it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:  # noqa: N802  method name of http.server
        server, url = self.server, urlparse(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if url.path.strip("/") == "heartbeat":
            for fault in list(getattr(server, "heartbeat_faults", [])):
                if fault(self):
                    return None
            heartbeat = {"status": "OK", "db_version": server.database_version, "version": "0.87.3"}
            return self.answer(200, json.dumps(heartbeat | {"access_controlled_batch_ids": []}).encode())
        kind = url.path.strip("/").split("/")[-1]
        server.requests.append((kind, self.query))
        if self.headers.get("x-api-key") != KEY:
            return self.answer(401, b'{"message":"Unauthorized"}')
        for fault in list(server.faults):
            if fault(self):
                return None
        unknown = set(self.query) - PARAMETERS[kind] - PAGING
        if unknown or int(self.query.get("_limit", 100)) > MAX_LIMIT:
            detail = f"Request contains query parameters which cannot be used: {', '.join(sorted(unknown))}"
            return self.answer(400, json.dumps({"detail": detail}).encode())
        return self.answer(200, self.page(kind))

    def page(self, kind: str) -> bytes:
        matching = [document for document in self.server.documents[kind] if self.fits(document)]
        skip, limit = int(self.query.get("_skip", 0)), int(self.query.get("_limit", 100))
        fields = self.query.get("_fields", "material_id").split(",")
        data = [{f: d[f] for f in fields if f in d} for d in matching[skip : skip + limit]]
        meta = {"api_version": "0.87.3", "total_doc": len(matching), "max_limit": MAX_LIMIT}
        return json.dumps({"data": data, "meta": meta}).encode()

    def fits(self, document: dict) -> bool:
        query = self.query
        return "theoretical" not in query or document.get("theoretical") == (query["theoretical"].lower() == "true")


def times(n: int, act: Callable[[Handler], None], when: Callable[[dict], bool] = bool) -> Fault:
    """Return a fault that applies to the first n requests whose query satisfies `when`."""
    left = [n]

    def fault(handler: Handler) -> bool:
        if left[0] <= 0 or not when(handler.query):
            return False
        left[0] -= 1
        act(handler)
        return True

    return fault


def too_many(handler: Handler) -> None:
    handler.answer(429, b'{"message":"API rate limit exceeded"}', Retry_After="0")


def server_error(handler: Handler) -> None:
    handler.answer(500, b'{"detail":"Server error: timed out"}')


def cut(handler: Handler) -> None:
    """Announce the length of a page, send half of it, and close the connection."""
    body = handler.page(handler.path.split("?")[0].strip("/").split("/")[-1])
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.close_connection = True


@contextmanager
def serving(summaries: list[dict], thermos: list[dict]):
    """Run the server and yield it, with its `endpoint`, the received `requests`, and a list of `faults` to fill."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.documents = {"summary": summaries, "thermo": thermos}
    server.requests, server.faults, server.database_version = [], [], DATABASE_VERSION
    server.endpoint = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
