"""Speed and memory of extracting 150,000 synthetic documents from a local server into Parquet.

    python bench/extract_150k.py [n_documents]

A server process holds the documents as JSON pages; this process extracts them like the rule `extract_phases`. Prints
rows per second, time per part, memory of this process, the time to read the table, and size and read time of 5,000 of
the structures as CSV of CIF.
"""

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlparse

import numpy as np
import orjson
import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow_scripts"))

import extract_phases  # noqa: E402
from hullseeker.data import materials_project  # noqa: E402
from hullseeker.data.structure_files import read_structures  # noqa: E402
from hullseeker.tables.parquet import read_table  # noqa: E402
from hullseeker.tables.structures import to_structure  # noqa: E402

PAGE = 1000
N_AS_CIF = 5000
SYMBOLS = [
    *("Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Ti", "V", "Cr", "Mn"),
    *("Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Sr", "Zr", "Ag", "In", "Sn", "Ba"),
]


def thermo_document(i: int, rng: np.random.Generator) -> dict:
    """Return a thermo document with one entry of 1 to 20 sites; with the keys of emmet-core's model."""
    n = int(rng.integers(1, 21))
    symbols = rng.choice(SYMBOLS, size=min(n, 1 + int(rng.integers(4))), replace=False)
    lattice = (np.eye(3) * (n * 15) ** (1 / 3) + rng.normal(0, 0.3, (3, 3))).tolist()
    sites = [
        {
            "species": [{"element": str(symbols[j % len(symbols)]), "occu": 1}],
            "abc": rng.random(3).tolist(),
            "properties": {"magmom": 0.0},
            "label": str(symbols[j % len(symbols)]),
            "xyz": rng.random(3).tolist(),
        }
        for j in range(n)
    ]
    structure = {"@module": "pymatgen.core.structure", "@class": "Structure", "charge": 0.0, "properties": {}}
    structure |= {"lattice": {"matrix": lattice, "pbc": [True] * 3}, "sites": sites}
    entry = {"@class": "ComputedStructureEntry", "energy": -5.0 * n, "correction": -0.2, "structure": structure}
    energies = {"energy_per_atom": -5.04, "uncorrected_energy_per_atom": -5.0, "formation_energy_per_atom": -1.0}
    about = {"material_id": f"mp-{i}", "energy_type": "GGA", "energy_above_hull": float(rng.exponential(0.1))}
    return {**about, **energies, "entries": {"GGA": entry}}


def serve(n: int, port) -> None:
    rng = np.random.default_rng(0)
    pages = {}
    for skip in range(0, n, PAGE):
        data = [thermo_document(i, rng) for i in range(skip, min(skip + PAGE, n))]
        pages[skip] = orjson.dumps({"data": data, "meta": {"total_doc": n}})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):  # noqa: N802
            url = urlparse(self.path)
            query = parse_qs(url.query)
            if "heartbeat" in url.path:
                body = orjson.dumps({"db_version": "bench", "version": "0.87.3", "access_controlled_batch_ids": []})
            elif query["_limit"] == ["1"]:
                body = orjson.dumps({"data": [], "meta": {"total_doc": n}})
            else:
                body = pages[int(query.get("_skip", ["0"])[0])]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"server: {n} documents, {sum(map(len, pages.values())) / 1e6:.0f} MB of JSON", flush=True)
    port.value = server.server_port
    server.serve_forever()


class Stopwatch:
    """Accumulates the seconds spent in functions of a module."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, owner: object, name: str) -> None:
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

        setattr(owner, name, timed)


def watch_memory(found: list[float]) -> None:
    process = psutil.Process()
    while True:
        found.append(process.memory_info().rss / 1e6)
        time.sleep(0.5)


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 150_000
    spawn = multiprocessing.get_context("spawn")
    port = spawn.Value("i", 0)
    process = spawn.Process(target=serve, args=(n, port), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.2)
    os.environ["MP_API_KEY"] = "b" * 32
    watch, memory = Stopwatch(), []
    watch.around(materials_project.MaterialsProject, "page")
    watch.around(materials_project, "rows_of_page")
    watch.around(materials_project, "_write_page")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        settings = {"endpoint": f"http://127.0.0.1:{port.value}/", "thermo_type": "GGA_GGA+U", "page_size": PAGE}
        settings |= {"max_attempts": 2, "longest_wait_s": 1.0}
        job = SimpleNamespace(
            output=SimpleNamespace(phases=folder / "phases.parquet", refused=folder / "refused.parquet"),
            params=SimpleNamespace(settings=settings, cache_dir=folder / "cache"),
            log=[folder / "log"],
        )
        threading.Thread(target=watch_memory, args=(memory,), daemon=True).start()
        started = time.perf_counter()
        extract_phases.main(job)
        seconds = time.perf_counter() - started
        print(f"extraction: {n} documents in {seconds:.1f} s, {n / seconds:.0f} a second")
        for name, part in watch.seconds.items():
            print(f"  {name}: {part:.1f} s, {n / part:.0f} a second")
        thirds = np.array_split(np.array(memory), 3)
        print("memory, MB: " + ", ".join(f"{t.mean():.0f}" for t in thirds) + f" (thirds), peak {max(memory):.0f}")
        started = time.perf_counter()
        table = read_table(folder / "phases.parquet", "materials")
        print(f"read phases.parquet: {time.perf_counter() - started:.2f} s, {table.num_rows} rows, "
              f"{(folder / 'phases.parquet').stat().st_size / 1e6:.1f} MB")  # fmt: skip
        rows = table.slice(0, N_AS_CIF).to_pylist()
        frame = pd.DataFrame([(r["structure_id"], to_structure(r).to(fmt="cif")) for r in rows])
        frame.columns = ["material_id", "cif"]
        frame.to_csv(folder / "cif.csv", index=False)
        started = time.perf_counter()
        read_structures(folder / "cif.csv", "x")
        as_csv = time.perf_counter() - started
        size = (folder / "cif.csv").stat().st_size
        per_row = (folder / "phases.parquet").stat().st_size / n
        print(f"CSV of CIF: {size / N_AS_CIF:.0f} bytes and {1e3 * as_csv / N_AS_CIF:.2f} ms a structure "
              f"(Parquet: {per_row:.0f} bytes)")  # fmt: skip
    process.terminate()


if __name__ == "__main__":
    main()
