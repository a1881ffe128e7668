"""Whether the hub would hand out a model is told apart: gated, private or missing, a bad token, out of reach."""

import shutil
from pathlib import Path

import pytest

import fetch_base_model
from hub_server import OTHER_TOKEN, PAGE, TOKEN, serving_hub
from hullseeker.language_model.hub_access import is_hub_name, refusal_of_hub
from hullseeker.runtime import http_requests as asking
from hullseeker.workflow.preflight import missing_access, missing_base_model

ROOT = Path(__file__).parents[2]
NAMES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_CACHE",
)
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(asking, "PAGE_WAIT_S", 0.0)
    (tmp_path / "hf").mkdir()
    with serving_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
        yield server


CASES = {
    ("org/public", None): None,
    ("org/public", TOKEN): None,
    ("org/public", "hf_revoked00"): "refuses the token of HF_TOKEN (401); create a new one at {hub}/settings/tokens, "
    + f"and {LOG_IN}",
    ("org/private", None): f"has no public model of that name (401); check the name, or {LOG_IN} if it is private",
    (
        "org/private",
        OTHER_TOKEN,
    ): "has no model of that name that the account of HF_TOKEN may see (404); check the name",
    ("org/private", TOKEN): None,
    ("org/gated", None): "provides it only to accounts that accepted its licence (401); accept it at {hub}/org/gated, "
    + f"and {LOG_IN}",
    ("org/gated", OTHER_TOKEN): "has not given the account of HF_TOKEN access to it (403): it is gated; accept its "
    "licence at {hub}/org/gated and wait until access is granted, or let the token read gated repositories",
    ("org/gated", TOKEN): None,
    ("org/moved", None): "provides it only to accounts that accepted its licence (401); accept it at {hub}/org/moved, "
    + f"and {LOG_IN}",
    ("org/missing", TOKEN): "has no model of that name that the account of HF_TOKEN may see (404); check the name",
    ("org/gguf", None): "has the model but not config.json (404); choose one that transformers can load",
}


@pytest.mark.parametrize(("model", "token"), CASES)
@pytest.mark.parametrize("must_answer", [True, False])
def test_what_the_hub_says_of_a_model(hub, monkeypatch, model, token, must_answer):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    words = CASES[model, token]
    problems = missing_base_model(model, must_answer)
    assert [problem.split(" lacks everything, and ")[1] for problem in problems] == (
        [f"{hub.address} {words.format(hub=hub.address)}"] if words else []
    )
    assert not token or token not in str(problems)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("by", ["HF_HOME", "HF_TOKEN_PATH"])
def test_a_login_by_token_file_counts(monkeypatch, tmp_path, by):
    path = tmp_path / "hf" / "token"
    if by == "HF_TOKEN_PATH":
        path = tmp_path / "elsewhere" / "my token"
        path.parent.mkdir()
        monkeypatch.setenv("HF_TOKEN_PATH", str(path))
    path.write_text(TOKEN + "\n")
    assert missing_base_model("org/private") == missing_base_model("org/gated") == []
    path.write_text(OTHER_TOKEN)
    (problem,) = missing_base_model("org/gated")
    assert f"has not given the account of the token file {path} access to it (403)" in problem
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # the environment comes first, as for huggingface_hub
    assert missing_base_model("org/gated") == []
    monkeypatch.setenv("HF_TOKEN", " \n")  # and an empty one is none
    assert len(missing_base_model("org/gated")) == 1


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "  ", "\t"])
def test_white_space_around_a_token_is_taken_off(hub, monkeypatch, end):
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}{end}")
    assert missing_base_model("org/private") == []
    assert hub.requests[0][2]["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("inside", ["\n", "\x07", " ", "\x7f", "\u200b", "é", "\udcff"])
def test_a_token_with_a_character_that_none_has_is_refused_unseen(hub, monkeypatch, inside):
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN[:20]}{inside}{TOKEN[20:]}")
    (problem,) = missing_base_model("org/private")
    assert f"HF_TOKEN has a character that no key or token has (U+{ord(inside):04X}, character 21 of 38)" in problem
    assert TOKEN[:20] not in problem and TOKEN[20:] not in problem and not hub.requests
    with pytest.raises(ValueError, match="HF_TOKEN has a character") as caught:
        fetch_base_model.fetch("org/private")
    assert TOKEN[:20] not in str(caught.value)


@pytest.mark.usefixtures("hub")
def test_a_token_that_cannot_be_used_is_told_of_a_model_in_the_cache_too(monkeypatch, tmp_path):
    """transformers and fairchem ask the hub whether what is cached is still the newest."""
    snapshot = tmp_path / "hf" / "hub" / "models--org--private" / "snapshots" / "abc"
    shutil.copytree(ROOT / "resources" / "base_model", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setenv("FAIRCHEM_CACHE_DIR", str(tmp_path / "cache"))
    weights = tmp_path / "cache" / "models--facebook--UMA" / "snapshots" / "abc" / "checkpoints" / "uma-s-1p1.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    uma = {"potential": "uma", "model": None}
    assert missing_base_model("org/private") == missing_access(uma) == []
    monkeypatch.setenv("HF_TOKEN", "hf_a\x07b")
    for (problem,) in (missing_base_model("org/private"), missing_access(uma)):
        assert "HF_TOKEN has a character that no key or token has (U+0007, character 5 of 6)" in problem
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert missing_base_model("org/private") == missing_access(uma) == []


@pytest.mark.usefixtures("hub")
def test_a_token_file_that_is_no_text(tmp_path):
    (tmp_path / "hf" / "token").write_bytes(b"\xff\xfe\x00hf")
    (problem,) = missing_base_model("org/private")
    assert f"the token file {tmp_path}/hf/token cannot be read (it is not UTF-8 text); log in again" in problem


def test_a_hub_that_is_out_of_reach_is_no_refusal(hub, monkeypatch):
    def answers(status, body=b"", **headers):
        hub.fault = lambda handler: handler.answer(status, body, **headers)
        assert missing_base_model("org/model", must_answer=False) == []
        (problem,) = missing_base_model("org/model")
        assert "run `snakemake prefetch` where there is a network" in problem
        return problem.split(" does not answer from here ")[1].split(";")[0]

    assert answers(503) == "(status 503)"
    assert answers(429) == "(status 429)"
    assert answers(403, PAGE, Content_Type="text/html") == "(a page with status 403, of a gateway or proxy)"
    assert answers(200, PAGE, Content_Type="text/html") == "(a page with status 200, of a gateway or proxy)"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert missing_base_model("org/model", must_answer=False) == []
    assert "([Errno 111] Connection refused)" in missing_base_model("org/model")[0]


def test_a_token_is_sent_to_no_other_host(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving_hub() as other:
        hub.elsewhere = other.address
        assert refusal_of_hub("org/elsewhere") is None
        assert other.requests == []
    assert [method for method, *_ in hub.requests] == ["GET", "HEAD"]


def test_credentials_in_the_address_of_a_mirror_are_used_and_not_told(hub, monkeypatch):
    address = hub.address.replace("http://", "http://me:pass-word@")
    monkeypatch.setenv("HF_ENDPOINT", address)
    hub.fault = lambda handler: handler.answer(503)
    (problem,) = missing_base_model("org/public")
    assert hub.requests[0][2]["Authorization"] == "Basic bWU6cGFzcy13b3Jk"
    assert "pass-word" not in problem and "http://<credentials" in problem and "(status 503)" in problem
    monkeypatch.setenv("HF_ENDPOINT", "http://me:pass-word@:x/")
    assert "pass-word" not in missing_base_model("org/public")[0]


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nothing_is_asked(hub, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert "HF_HUB_OFFLINE forbids to fetch it" in missing_base_model("org/public")[0]
    assert hub.requests == []


@pytest.mark.parametrize("name", ["gpt2", "org/model", "Qwen/Qwen2.5-7B-Instruct", "a/b_c.d", "x/y"])
def test_names_that_the_hub_can_have(name):
    assert is_hub_name(name)


@pytest.mark.parametrize(
    "name", ["org/model@v2", "a/b/c", "./model", "~/model", "/model", "my model", "a--b", "a..b", ""]
)
def test_names_that_the_hub_cannot_have(hub, name):
    assert not is_hub_name(name)
    if name:
        (problem,) = missing_base_model(name)
        assert problem.endswith("which is neither a folder here nor a hub name (owner/model)") and not hub.requests


def test_weights_of_an_evaluator_are_asked_for(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRCHEM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    uma = {"potential": "uma", "model": None}
    assert missing_access(uma) == []
    assert [path for _, path, _ in hub.requests] == [
        "/api/models/facebook/UMA",
        "/facebook/UMA/resolve/main/checkpoints/uma-s-1p1.pt",
    ]
    hub.fault = lambda handler: handler.refuse(403, "GatedRepo", "Access to model facebook/UMA is restricted")
    (problem,) = missing_access(uma)
    assert "has not given the account of HF_TOKEN access to it (403): it is gated" in problem
    assert problem.endswith("or give a checkpoint file as relax.model")
    monkeypatch.setenv("HF_TOKEN", "hf_a\x07b")
    assert "HF_TOKEN has a character that no key or token has (U+0007" in missing_access(uma)[0]
    hub.fault = lambda handler: handler.answer(503)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert missing_access(uma) == []


@pytest.mark.usefixtures("hub")
def test_what_cannot_be_fetched_is_said_in_one_sentence(monkeypatch):
    def refuse(*_, **options):
        assert options["token"] is None
        raise OSError("403 Client Error.\n\nCannot access gated repo")

    monkeypatch.setattr(fetch_base_model, "snapshot_download", refuse)
    with pytest.raises(OSError, match="org/gated cannot be fetched: .* provides it only to accounts") as caught:
        fetch_base_model.fetch("org/gated")
    assert "\n" not in str(caught.value) and caught.value.__suppress_context__


def test_the_token_file_is_found_where_the_library_looks(monkeypatch, tmp_path):
    from hullseeker.runtime.credentials import token_file

    for name in (*NAMES, "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert token_file() == Path.home() / ".cache" / "huggingface" / "token"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert token_file() == tmp_path / "huggingface" / "token"
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert token_file() == Path.home() / "hf" / "token"
    monkeypatch.setenv("HF_TOKEN_PATH", f"{tmp_path}/t")
    assert token_file() == tmp_path / "t"
