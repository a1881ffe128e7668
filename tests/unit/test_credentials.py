"""Keys and tokens are taken out of every text, in every form, and refused in a config, without being shown."""

import base64
import html
import json
import os
import shutil
import string
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hub_server import PAGE, TOKEN, serving_hub
from hullseeker.runtime.credentials import SECRETS, hub_token, problem_with_secret, secret_in, without_secrets
from materials_project_server import KEY, serving, some_documents

ROOT = Path(__file__).parents[2]
HIDDEN = "<HF_TOKEN>"
# In the order in which they would be tried on a token.
FORMS = {
    "raw": str,
    "stripped": str.strip,
    "Python's": repr,
    "Python's, twice": lambda text: repr(repr(text)),
    "bytes": lambda text: repr(text.encode(errors="surrogateescape")),
    "JSON": json.dumps,
    "HTML": html.escape,
    "address": lambda text: quote(text.encode(errors="surrogateescape"), safe=""),
    "form": lambda text: quote_plus(text.encode(errors="surrogateescape")),
    "one line": lambda text: " ".join(text.split()),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in [*SECRETS, "HF_TOKEN_PATH", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "hf").mkdir()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inside", ["", "\n", "\r\n", " ", "\x07", '"', "'", "\\", "&", "é", "\u200b", "\udcff"])
def test_every_form_of_a_token_is_masked(monkeypatch, form, inside):
    token = f"{TOKEN[:20]}{inside}{TOKEN[20:]}"
    monkeypatch.setenv("HF_TOKEN", token + "\n")
    for value in (token, token + "\n", f"  {token}\r\n"):
        shown = without_secrets(f"value '{FORMS[form](value)}' end")
        assert TOKEN[:20] not in shown and TOKEN[20:] not in shown
        assert HIDDEN in shown and shown.startswith("value ") and shown.endswith(" end")


@given(
    secret=st.text(st.sampled_from(string.printable + "é\u200b"), min_size=4, max_size=50).filter(
        lambda text: len(text.strip()) >= 4 and "\0" not in text
    ),
    form=st.sampled_from(list(FORMS.values())),
    before=st.text(max_size=10),
)
def test_any_secret_is_masked_in_any_form(secret, form, before):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MP_API_KEY", secret)
        shown = without_secrets(before + form(secret))
    assert "<MP_API_KEY>" in shown


@given(st.text(max_size=80))
def test_a_text_without_secrets_stays_as_it_is(text):
    if "://" not in text and "=" not in text:
        assert without_secrets(text) == text


def test_where_secrets_are_found(monkeypatch, tmp_path):
    (tmp_path / "hf" / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("MP_API_KEY", KEY)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret%21word@proxy:3128")
    basic = base64.b64encode(b"me:s3cret!word").decode()
    words = f"{TOKEN} {KEY} s3cret!word s3cret%21word Basic {basic} http://me:s3cret%21word@proxy:3128/x"
    assert without_secrets(words) == (
        "<token of the token file> <MP_API_KEY> <password of HTTPS_PROXY> <password of HTTPS_PROXY> "
        "Basic <credentials of HTTPS_PROXY> http://<credentials>@proxy:3128/x"
    ).replace("http://<credentials>@", without_secrets("http://me:s3cret%21word@"))
    (tmp_path / "hf" / "token").unlink()
    assert without_secrets(f"of {TOKEN}, org/hf_model") == "of <token of the hub>, org/hf_model"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no answer of https://me:word@host:1/a?b", "no answer of https://<credentials>@host:1/a?b"),
        ("https://hf_abc@host/x", "https://<credentials>@host/x"),
        ("nonnumeric port: 'http://a:b@c@host:1'", "nonnumeric port: 'http://<credentials>@host:1'"),
        ("https://h/f?X-Amz-Signature=12ab&x=1", "https://h/f?X-Amz-Signature=<secret>&x=1"),
        ("https://h/?_fields=material_id&api_key=abc", "https://h/?_fields=material_id&api_key=<secret>"),
        ("git+https://github.com/a/b@v1", "git+https://github.com/a/b@v1"),
        ("mail a@b.c", "mail a@b.c"),
    ],
)
def test_addresses(text, shown):
    assert without_secrets(text) == shown


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "http_proxy", "HF_ENDPOINT"])
@pytest.mark.parametrize("password", ["s3cret/word1", "s3cret#word1", "s3cret@word1", "s3cret:word1"])
def test_parts_of_a_password_that_should_have_been_escaped(monkeypatch, variable, password):
    monkeypatch.setenv(variable, f"http://me:{password}@proxy:3128")
    shown = without_secrets(f"Invalid port: 's3cret'; Failed to parse: 'me:s3cret', 'word1@proxy'; {password}")
    assert "s3cret" not in shown and "word1" not in shown


def test_the_name_of_a_user_is_no_secret(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://hullseeker@proxy:3128")
    assert without_secrets("hullseeker failed") == "hullseeker failed"
    assert secret_in("results/hullseeker") is None
    monkeypatch.setenv("HTTPS_PROXY", f"http://{KEY}@proxy:3128")
    assert without_secrets(f"{KEY} failed") == "<credentials of HTTPS_PROXY> failed"


def test_a_token_file_that_is_something_else(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "large"))
    (tmp_path / "large").write_text("ab" * 100_000)
    assert without_secrets("ab" * 200) == "ab" * 200
    with pytest.raises(ValueError, match="large has 200000 characters, more than a key or token has"):
        hub_token()


def test_a_short_value_is_no_secret(monkeypatch):
    monkeypatch.setenv("MP_API_KEY", "a")
    assert without_secrets("a table") == "a table"


@pytest.mark.parametrize("value", [" k\n", "k" * 32, "!~"])
def test_values_that_can_be_sent(value):
    assert problem_with_secret("MP_API_KEY", value) is None


def test_a_token_is_read_as_the_library_reads_it(monkeypatch, tmp_path):
    assert hub_token() is None
    (tmp_path / "hf" / "token").write_text(" \n")
    assert hub_token() is None
    (tmp_path / "hf" / "token").write_text("hf_file\n")
    assert hub_token() == "hf_file"
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_old")
    assert hub_token() == "hf_old"
    monkeypatch.setenv("HF_TOKEN", "\thf_new ")
    assert hub_token() == "hf_new"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (TOKEN, "holds a token of the Hugging Face hub"),
        ("http://me:word@host:8000", "is an address with a user or password in it"),
        ("http://host:8000/?token=abc", "is an address with a secret in it"),
        ("http://host:8000", None),
        ("hf_models/Qwen2.5", None),
        ("Key=value", None),
    ],
)
def test_secrets_in_a_config(text, what):
    assert secret_in(text) == what


def test_a_key_in_a_config(monkeypatch):
    monkeypatch.setenv("MP_API_KEY", KEY)
    assert secret_in(f"models/{KEY}") == "holds the value of MP_API_KEY"


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout, as far as fetching needs it."""
    folder = tmp_path / "checkout"
    for name in ("Snakefile", "config.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for name in ("rules", "schemas", "profiles", "workflow_scripts", "resources", "report", "envs", "experiments"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True)
    return folder


def run(folder: Path, *words: str, **environment: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *words]
    of_caller = ("proxy", "offline")
    env = {name: value for name, value in os.environ.items() if not any(part in name.lower() for part in of_caller)}
    env |= environment
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def assert_nowhere(secret: str, folder: Path, words: str, some: bool = True) -> None:
    """Neither half of a secret is in what a run printed or wrote: what stands between them is written in many ways."""
    halves = [secret[:16], secret[-16:]]
    assert not [half for half in halves if half in words]
    written = [p for name in ("results", "logs", "benchmarks", ".snakemake") for p in (folder / name).rglob("*")]
    files = [path for path in written if path.is_file()]
    assert files or not some
    assert not [path for path in files for half in halves if half.encode() in path.read_bytes()]


OVERLAY = {
    "experiment": "secret",
    "data": {"source": "demo"},
    "base_model": {"path": "org/private", "device": "cpu"},
    "grpo": {"reward_device": "cpu"},
    "relax": {"potential": "sevennet", "device": "cpu"},
    "systems": {"base": {"kind": "language_model", "label": "Base", "stages": []}},
    "comparison": {"baseline": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["fetch", "preflight"])
def test_all_that_a_run_writes_that_the_hub_refuses(checkout, tmp_path, target):
    """The token in the environment and in files, good, refused and unusable: grep finds it nowhere."""
    (checkout / "mine.yaml").write_text(yaml.safe_dump(OVERLAY))
    fetched = "results/cache/prefetched/models--org--private.json"
    words = [fetched if target == "fetch" else "preflight", "--configfile", "mine.yaml"]
    home = tmp_path / "hf"
    cases = {
        TOKEN + "\n": "",
        f"{TOKEN[:20]}\n{TOKEN[20:]}": "HF_TOKEN has a character that no key or token has (U+000A",
        f"{TOKEN[:20]}\x07{TOKEN[20:]}": "HF_TOKEN has a character that no key or token has (U+0007",
        TOKEN[:-1] + "y": "refuses the token of HF_TOKEN (401)",
    }
    with serving_hub() as hub:
        for token, problem in cases.items():
            code, said = run(checkout, *words, HF_TOKEN=token, HF_HOME=str(home), HF_ENDPOINT=hub.address)
            assert problem in said, said
            if target == "fetch" and not problem:
                assert "org/private lacks config.json, tokenizer.json, model.safetensors at the hub" in said
            assert code == (1 if problem or target == "fetch" else 0), said
            assert "Traceback" not in said
            assert_nowhere(token, checkout, said)
        (home / "token").write_text(f"{TOKEN[:20]}\x07{TOKEN[20:]}\n")
        code, said = run(checkout, *words, HF_HOME=str(home), HF_ENDPOINT=hub.address)
        assert f"the token file {home}/token has a character" in said
        assert_nowhere(TOKEN[:20] + "\x07" + TOKEN[20:], checkout, said)


@pytest.mark.slow
def test_all_that_a_run_writes_that_the_materials_project_refuses(checkout):
    overlay = OVERLAY | {"base_model": {"path": "resources/base_model"}}
    with serving(*some_documents()) as server:
        settings = {"endpoint": server.endpoint, "max_attempts": 2, "longest_wait_s": 0.01}
        overlay["data"] = {"source": "materials_project", "materials_project": settings}
        (checkout / "mine.yaml").write_text(yaml.safe_dump(overlay))
        words = ["results/secret/data/extracted/phases.parquet", "--configfile", "mine.yaml"]
        for key, problem in {
            "q" * 16 + "w" * 16: "the Materials Project refuses MP_API_KEY (401)",
            KEY[:15] + "\x07" + KEY[16:]: "MP_API_KEY has a character that no key or token has (U+0007",
        }.items():
            code, said = run(checkout, *words, MP_API_KEY=key + "\n")
            assert code == 1 and problem in said and "Traceback" not in said, said
            assert_nowhere(key, checkout, said)
        # A gateway that repeats what it was sent, in a job.
        server.faults.append(
            lambda handler: (
                handler.answer(403, PAGE + repr(dict(handler.headers)).encode(), Content_Type="text/html") or True
            )
        )
        code, said = run(checkout, *words, MP_API_KEY=KEY)
        assert code == 1 and "a gateway refused the request, not the API" in said, said
        assert_nowhere(KEY, checkout, said)


@pytest.mark.parametrize(
    "words",
    [
        ["--config", f"base_model={{path: {TOKEN}}}"],
        ["--config", f"hf_token={TOKEN}"],
        ["--config", f"hf_token: {TOKEN}"],
        ["--config", f"data={{materials_project: {{endpoint: 'http://me:{TOKEN}@host/'}}}}"],
        ["--config", f"data={{materials_project: {{api_key: {'q' * 16 + 'w' * 16}}}}}"],
    ],
)
def test_a_secret_on_the_command_line_is_in_no_log(checkout, words):
    """Snakemake writes its command line into its log."""
    code, said = run(checkout, *words, "--configfile", str(ROOT / "experiments" / "test.yaml"))
    assert code == 1 and "Traceback" not in said
    secret = TOKEN if TOKEN in words[1] else "q" * 16 + "w" * 16
    assert_nowhere(secret, checkout, said, some=False)


def test_a_secret_in_a_config_file_is_in_no_log(checkout, monkeypatch):
    monkeypatch.setenv("MP_API_KEY", KEY)
    (checkout / "mine.yaml").write_text(f"experiment: a\nbase_model: {{path: models/{KEY}}}\nseed: {KEY}\n")
    code, said = run(checkout, "--configfile", "mine.yaml")
    assert code == 1
    assert "  - base_model.path holds the value of MP_API_KEY; the config is written into results and logs" in said
    assert_nowhere(KEY, checkout, said, some=False)
