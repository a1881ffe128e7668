"""The offline bundle and what is fetched for it: files, manifest, links, and a hub of our own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hullseeker.language_model.hub_models import missing_in_model, snapshot_of
from hullseeker.workflow.bundling import (
    MANIFEST,
    files_of_checkout,
    files_under,
    links_among,
    snapshot_files,
    write_tar,
)
from pack_bundle import UNPACK, extra_packages

ROOT = Path(__file__).parents[2]
BASE_MODEL = ROOT / "resources" / "base_model"
REVISION = "0123456789abcdef0123456789abcdef01234567"
MODEL = "owner/tiny"


@pytest.fixture
def unpacked(tmp_path):
    """A small bundle, unpacked: a file twice under two names, a link, a program."""
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "a b.txt").write_text("one")
    os.link(source / "folder" / "a b.txt", source / "twin.txt")
    os.utime(source / "twin.txt", (1e9, 1e9))
    (source / "link").symlink_to("folder")
    names = [Path("folder/a b.txt"), Path("twin.txt"), Path("link")]
    links = links_among(names, source)
    files = {f"checkout/{name}": source / name for name in names if str(name) not in links}
    n_files = write_tar(
        tmp_path / "x.tar", "top", files, {"unpack.sh": "#!/bin/sh\n"}, {f"checkout/{k}": v for k, v in links.items()}
    )
    assert n_files == 3
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames()[0] == f"top/{MANIFEST}"
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "top"


def check(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["sha256sum", "--check", "--quiet", MANIFEST], cwd=folder, capture_output=True, text=True, check=False
    )


def test_what_is_packed_comes_out(unpacked):
    assert check(unpacked).returncode == 0
    assert (unpacked / "checkout" / "twin.txt").read_text() == "one"
    assert (unpacked / "checkout" / "link" / "a b.txt").read_text() == "one"
    assert (unpacked / "checkout" / "twin.txt").stat().st_mtime == 1e9
    assert os.access(unpacked / "unpack.sh", os.X_OK)


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("two"), lambda path: path.unlink()])
def test_a_changed_or_missing_file_is_found(unpacked, spoil):
    spoil(unpacked / "checkout" / "twin.txt")
    assert check(unpacked).returncode != 0


def test_the_checkout_is_what_git_would_track():
    names = {str(name) for name in files_of_checkout(ROOT)}
    assert {"Snakefile", "resources/base_model/model.safetensors", "profiles/default/config.yaml"} <= names
    assert not any(name.startswith((".git/", ".venv/", ".snakemake/", "results/")) for name in names)


def test_files_outside_of_the_checkout_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.csv").touch()
    (tmp_path / "y.csv").touch()
    assert list(files_under(tmp_path / "in", tmp_path)) == ["in/x.csv"]
    with pytest.raises(ValueError, match="y.csv lies outside this checkout"):
        files_under(tmp_path / "y.csv", tmp_path / "in")


def test_packages_beyond_the_lock(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert extra_packages([{"potential": "sevennet", "engine": "per_cell"}]) == []
    assert extra_packages([{"potential": "uma", "engine": "per_cell"}]) == ["fairchem-core==2.24.0"]
    with pytest.raises(ValueError, match="torch_sim, which needs Python 3.12"):
        extra_packages([{"potential": "uma", "engine": "torch_sim"}])


def test_unpacking_stops_at_a_spoiled_file(unpacked):
    script = UNPACK.format(manifest=MANIFEST, extra="", configfile="")
    (unpacked / "unpack.sh").write_text(script)
    (unpacked / "checkout" / "twin.txt").write_text("two")
    done = subprocess.run(["sh", unpacked / "unpack.sh"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "twin.txt: FAILED" in done.stdout
    assert not (unpacked / "checkout" / ".venv").exists()


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download of one model asks for."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):  # noqa: N802  the name is http.server's
        path, files = self.path.split("?")[0], self.server.files
        if path.startswith(f"/api/models/{MODEL}/tree/"):
            entries = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in files.items()]
            return self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
        if path.startswith(f"/api/models/{MODEL}"):
            about = {"id": MODEL, "sha": REVISION, "siblings": [{"rfilename": name} for name in files]}
            return self.answer(200, json.dumps(about).encode(), Content_Type="application/json")
        name = path.removeprefix(f"/{MODEL}/resolve/{REVISION}/")
        if name not in files:
            return self.answer(404, X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return self.answer(200, files[name], ETag=etag, X_Repo_Commit=REVISION, Accept_Ranges="bytes")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {path.name: path.read_bytes() for path in BASE_MODEL.iterdir()} | {"pytorch_model.bin": b"a pickle"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetched(hub, home: Path) -> subprocess.CompletedProcess:
    program = f"import json, fetch_base_model; print(json.dumps(fetch_base_model.fetch({MODEL!r})))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "workflow_scripts",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_is_fetched_into_the_cache_and_packed_from_there(hub, tmp_path, monkeypatch):
    done = fetched(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout.splitlines()[-1])
    assert about["revision"] == REVISION
    assert "pytorch_model.bin" not in about["sha256"]
    weights = hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    assert about["sha256"]["model.safetensors"] == weights
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert missing_in_model(snapshot_of(MODEL)) == []

    target = tmp_path / "elsewhere"
    for name, file in snapshot_files(tmp_path / "hub" / "models--owner--tiny").items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)
    module = "hullseeker.language_model.generation"
    program = f"from {module} import load_language_model as load; print(load({MODEL!r})[0].num_parameters())"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "workflow_scripts",
        env=os.environ | {"HF_HUB_CACHE": str(target), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert int(loaded.stdout.split()[-1]) > 1_000_000


def test_a_model_without_safetensors_is_refused(hub, tmp_path):
    del hub.files["model.safetensors"]
    done = fetched(hub, tmp_path)
    assert done.returncode != 0
    assert "owner/tiny lacks model.safetensors at the hub" in done.stderr
