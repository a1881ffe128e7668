"""What preflight says of each thing that may be missing, and that it says nothing where all is there."""

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from hullseeker.language_model.hub_models import missing_in_model, snapshot_of
from hullseeker.runtime import http_requests as asking
from hullseeker.workflow import preflight
from hullseeker.workflow.preflight import (
    missing_base_model,
    missing_conda,
    missing_data,
    missing_pins,
    missing_space,
    missing_weights,
    model_gb,
    other_gguf,
    refused_key,
    space_needed_gb,
    unbuilt,
)
from materials_project_server import KEY, serving, some_documents, times

ROOT = Path(__file__).parents[2]
BASE_MODEL = ROOT / "resources" / "base_model"
NOBODY = "http://127.0.0.1:9"  # a port at which nothing answers


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "MP_API_KEY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@contextmanager
def answering(status: int):
    """A server that answers every request with one status; yields its address and the headers it got."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802  the name is http.server's
            seen.append(dict(self.headers))
            self.send_response(status)
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def put_in_cache(model: str) -> Path:
    repository = Path(os.environ["HF_HOME"]) / "hub" / f"models--{model.replace('/', '--')}"
    snapshot = repository / "snapshots" / "abc"
    shutil.copytree(BASE_MODEL, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    return snapshot


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "MP_API_KEY is not set; get one at https://materialsproject.org/api"),
        ("short", "MP_API_KEY has 5 characters, but a key has 32"),
        ("x" * 32, "the Materials Project refuses MP_API_KEY (401)"),
    ],
)
def test_a_key_that_is_missing_or_wrong(config, monkeypatch, key, words):
    if key:
        monkeypatch.setenv("MP_API_KEY", key)
    with serving(*some_documents()) as server:
        config["data"]["materials_project"]["endpoint"] = server.endpoint
        (problem,) = missing_data(config, ["not/there.parquet"])
    assert words in problem
    assert not key or key not in problem


def test_a_key_that_works_a_server_that_is_away_and_data_that_are_there(config, monkeypatch, tmp_path):
    monkeypatch.setenv("MP_API_KEY", KEY)
    with serving(*some_documents()) as server:
        config["data"]["materials_project"]["endpoint"] = server.endpoint
        assert missing_data(config, ["not/there.parquet"]) == []
    (problem,) = missing_data(config, ["not/there.parquet"])
    assert "does not answer from here" in problem and "prefetch" in problem and KEY not in problem
    (tmp_path / "materials.parquet").touch()
    monkeypatch.delenv("MP_API_KEY")
    assert missing_data(config, [tmp_path / "materials.parquet"]) == []
    config["data"]["source"] = "demo"
    assert missing_data(config, ["not/there.parquet"]) == []


def test_a_page_of_a_gateway_is_asked_again_and_told(monkeypatch):
    """A gateway's 403 is not the key's fault; it may refuse what calls itself Python-urllib."""
    monkeypatch.setattr(asking, "PAGE_WAIT_S", 0.0)
    monkeypatch.setenv("MP_API_KEY", KEY + "\n")
    agents = []

    def page(handler):
        agents.append(handler.headers["User-Agent"])
        title = "<title>Attention Required! | Cloudflare</title>"
        handler.answer(403, f"<html>{title}{KEY}</html>".encode(), Content_Type="text/html")

    with serving(*some_documents()) as server:
        server.faults.append(times(2, page))
        assert refused_key(server.endpoint) == []
        assert len(server.requests) == 3
        server.faults.append(times(4, page))
        (problem,) = refused_key(server.endpoint)
        assert problem.startswith(f"{server.endpoint.rstrip('/')} does not answer from here (a page, 'Attention")
        assert "Required! | Cloudflare', with status 403); run `snakemake prefetch`" in problem
        assert KEY not in problem
        assert refused_key(server.endpoint, must_answer=False) == []
        server.faults[:] = [lambda handler: handler.answer(200, b"<html>log in first</html>") or True]
        assert "(a page, 'log in first', with status 200)" in refused_key(server.endpoint)[0]
        server.faults[:] = [lambda handler: handler.answer(403, b'{"message": "Forbidden"}') or True]
        (problem,) = refused_key(server.endpoint, must_answer=False)
        assert "the Materials Project refuses MP_API_KEY (403)" in problem
    assert set(agents) == {asking.USER_AGENT} and asking.USER_AGENT.startswith("hullseeker ")


@pytest.mark.parametrize("char", ["\n", "\x07", "\u2026", "é"])
def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch, char):
    monkeypatch.setenv("MP_API_KEY", KEY[:10] + char + KEY[11:])
    (problem,) = refused_key(NOBODY, must_answer=False)
    assert problem.startswith(
        f"MP_API_KEY has a character that no key or token has (U+{ord(char):04X}, character 11 of 32);"
    )
    assert KEY[:10] not in problem


def test_before_a_run_a_server_that_is_away_is_no_reason(monkeypatch):
    """The jobs ask more than once, or elsewhere; a key or a name that is refused is one."""
    monkeypatch.setenv("MP_API_KEY", KEY)
    assert refused_key(NOBODY, must_answer=False) == []
    with serving(*some_documents()) as server:
        monkeypatch.setenv("MP_API_KEY", "x" * 32)
        (problem,) = refused_key(server.endpoint, must_answer=False)
    assert "the Materials Project refuses MP_API_KEY (401)" in problem
    monkeypatch.delenv("MP_API_KEY")
    (problem,) = refused_key(NOBODY, must_answer=False)
    assert problem.startswith("data.source is materials_project, and MP_API_KEY is not set")
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    assert missing_base_model("owner/model", must_answer=False) == []
    with answering(404) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        (problem,) = missing_base_model("owner/model", must_answer=False)
        assert "check the name" in problem
        (problem,) = missing_base_model("gpt2")  # a hub name without an owner is asked for
        assert "does not provide it (404)" in problem


def test_another_gguf_file_than_the_one_meant():
    assert other_gguf("a.gguf", "ab" * 32, None) == other_gguf("a.gguf", "ab" * 32, "AB" * 32) == []
    (problem,) = other_gguf("a.gguf", "ab" * 32, "cd" * 32)
    assert (
        "'a.gguf', which has the SHA-256 abab" in problem
        and f"base_model.gguf_sha256 is {'cd' * 32}; get the file" in problem
    )


def test_a_model_folder_must_be_whole(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(BASE_MODEL, model)
    assert missing_in_model(model) == [] == missing_base_model(str(model))
    assert model_gb(str(model)) == pytest.approx((BASE_MODEL / "model.safetensors").stat().st_size / 1e9)
    weights = model / "model.safetensors"
    for length in (weights.stat().st_size - 1, 100, 3):
        with open(weights, "r+b") as handle:
            handle.truncate(length)
        assert missing_in_model(model) == ["the rest of model.safetensors, which is truncated"]
    weights.unlink()
    (model / "tokenizer.json").unlink()
    (problem,) = missing_base_model(str(model))
    assert "which lacks tokenizer.json, model.safetensors; copy the model again" in problem
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    assert missing_in_model(model) == ["tokenizer.json", "1.safetensors", "2.safetensors"]
    (model / "model.safetensors.index.json").write_text("cut")
    assert "a readable model.safetensors.index.json" in missing_in_model(model)


def test_a_hub_model_in_the_cache_needs_no_network(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    snapshot = put_in_cache("owner/model-7B")
    assert snapshot_of("owner/model-7B") == snapshot
    assert missing_base_model("owner/model-7B") == []
    (snapshot / "model.safetensors").unlink()
    (problem,) = missing_base_model("owner/model-7B")
    assert "lacks model.safetensors, and http://127.0.0.1:9 does not answer from here" in problem
    assert "prefetch" in problem


@pytest.mark.parametrize(
    ("status", "words"), [(200, None), (404, "check the name"), (401, "(401)"), (503, "status 503")]
)
def test_a_hub_model_that_must_be_fetched(monkeypatch, status, words):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with answering(status) as (address, seen):
        monkeypatch.setenv("HF_ENDPOINT", address)
        problems = missing_base_model("owner/model")
    assert seen[0]["Authorization"] == "Bearer hf_secret"
    assert problems == [] if words is None else words in problems[0]
    assert "hf_secret" not in str(problems)


def test_offline_and_no_model(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (problem,) = missing_base_model("owner/model")
    assert "HF_HUB_OFFLINE forbids to fetch it; run `snakemake prefetch`" in problem
    (problem,) = missing_base_model("models/mine/here")
    assert "neither a folder here nor a hub name" in problem


def test_weights_that_ship_in_packages(monkeypatch):
    assert missing_weights(["chgnet", "sevenn"]) == []
    assert missing_weights(["not-installed"]) == []
    real = preflight.metadata.files

    def cut(package):
        files = [file for file in real(package) if file.name.endswith(".pth.tar")]
        files[0].size += 1
        return files

    monkeypatch.setattr(preflight.metadata, "files", cut)
    (problem,) = missing_weights(["chgnet"])
    assert "the weights of chgnet are incomplete" in problem and "--force-reinstall" in problem


def test_packages_that_this_python_lacks(tmp_path):
    assert missing_pins(ROOT.glob("envs/[!tuv]*.yaml")) == []
    env = tmp_path / "env.yaml"
    env.write_text("      - numpy==1.0\n      - emt==3.0\n      # What these bring\n      - ase==0.1\n")
    (problem,) = missing_pins([env])
    assert "emt==3.0 (here: nothing), numpy==1.0 (here: 2" in problem and "ase" not in problem


def test_no_conda_on_the_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (problem,) = missing_conda()
    assert "conda is not on the path" in problem
    (tmp_path / "conda").write_text("#!/bin/sh\n")
    (tmp_path / "conda").chmod(0o755)
    assert missing_conda() == []


def test_environments_that_are_built(tmp_path):
    env = ROOT / "envs" / "hullseeker.yaml"
    assert unbuilt([env], tmp_path) == [env]
    shutil.copy2(env, tmp_path / "0123_.yaml")
    assert unbuilt([env], tmp_path) == [env]  # begun, not done
    (tmp_path / "0123_.env_setup_done").touch()
    assert unbuilt([env], tmp_path) == []


def test_space(config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    envs = [ROOT / "envs" / "potentials.yaml", ROOT / "envs" / "hullseeker.yaml"]
    needed = space_needed_gb(config, 3, envs, tmp_path / "conda")
    assert needed[Path("results")]["trained models"] == pytest.approx(3 * 14.0)
    assert needed[tmp_path / "conda"] == {"conda environments": 9.5}
    assert needed[Path(os.environ["HF_HOME"]) / "hub"] == {"base model": pytest.approx(14.0)}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=10_000_000_000))
    (problem,) = missing_space(needed)
    assert "trained models 42.0" in problem and "has 10 GB left" in problem and "an estimate" in problem
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=10**12))
    assert missing_space(needed) == []


@pytest.mark.slow
def test_the_target_lists_everything_at_once(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        yaml.safe_dump({"experiment": "pre", "base_model": {"path": "resources"}, "relax": {"potential": "uma"}})
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("MP_API_KEY", "HF_TOKEN")}
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "1",
        "--directory",
        ROOT,
        "--snakefile",
        ROOT / "Snakefile",
    ]
    done = subprocess.run(
        [*command, "preflight", "--configfile", overlay],
        cwd=ROOT,
        env=clean | {"HF_HOME": str(tmp_path), "FAIRCHEM_CACHE_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    words = done.stdout + done.stderr
    assert done.returncode == 1, words
    for problem in (
        "MP_API_KEY is not set",
        "which lacks config.json",
        "'uma-s-1p1', whose weights",
        "lacks fairchem-core",
    ):
        assert problem in words
