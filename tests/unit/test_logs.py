"""Errors of scripts: the traceback is in the rule's log, one line is on the terminal, and secrets are masked."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hullseeker.runtime.logs import error_in_log, logging_to, sentence_of
from hullseeker.tables.parquet import TableError
from hullseeker.workflow.failed_jobs import error_lines

ROOT = Path(__file__).parents[2]
SCRIPT = """
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.parquet import TableError
def main(path):
    with logging_to(path, "import_materials") as log:
        log.warning("refused a: no cell")
        {raises}
main({path!r})
"""


def run_script(path: Path | None, raises: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(path=path and str(path), raises=raises)],
        cwd=ROOT / "workflow_scripts",
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_that_fails_prints_one_sentence_and_logs_the_trace(tmp_path):
    log = tmp_path / "a.log"
    done = run_script(log, "raise TableError(\"train.csv has columns ['a'];\\n it needs one named cif\")")
    assert done.returncode == 1
    assert done.stderr == f"train.csv has columns ['a']; it needs one named cif (trace: {log})\n"
    text = log.read_text()
    assert "WARNING refused a: no cell" in text and "Traceback (most recent call last)" in text
    assert error_in_log(log) == "train.csv has columns ['a']; it needs one named cif"


def test_an_error_that_has_no_words_of_its_own_keeps_its_kind(tmp_path):
    done = run_script(tmp_path / "a.log", "{}['cif']")
    assert done.stderr == f"KeyError: 'cif' (trace: {tmp_path}/a.log)\n"
    assert error_in_log(tmp_path / "a.log") == "KeyError: 'cif'"


def test_without_a_log_the_trace_is_printed():
    done = run_script(None, "raise TableError('x')")
    assert "Traceback" in done.stderr


def test_a_secret_is_in_no_log_and_on_no_terminal(tmp_path):
    secret = "s3cr3t" * 6
    done = run_script(tmp_path / "a.log", f"raise TableError('the server refuses {secret} today')", MP_API_KEY=secret)
    assert done.stderr.startswith("the server refuses <MP_API_KEY> today")
    assert secret not in done.stderr + (tmp_path / "a.log").read_text()


def test_a_secret_in_what_other_packages_log_or_a_thread_raises_is_masked(tmp_path):
    """Message, arguments and traceback of another package's logger, traceback of a thread, and the repr of bytes."""
    secret = "s3cr3t" * 6
    code = """import logging, os, threading
        theirs = logging.getLogger("theirs")
        theirs.addHandler(logging.StreamHandler())
        key = os.environ["MP_API_KEY"]
        theirs.warning("header %r", f"Bearer {key}".encode())
        try:
            raise ValueError(f"Invalid header value {key!r}")
        except ValueError:
            theirs.exception("no answer")
        thread = threading.Thread(target=lambda: int(key))
        thread.start()
        thread.join()
        log.error("%s and %s", key, 1)
        raise TableError(f"refused {key!r} of https://me:word@host")"""
    done = run_script(tmp_path / "a.log", code, MP_API_KEY=f" {secret}\n")
    written = done.stderr + done.stdout + (tmp_path / "a.log").read_text()
    assert "s3cr3t" not in written and "me:word" not in written
    assert "header b'Bearer  <MP_API_KEY>" in done.stderr
    assert "ValueError: Invalid header value ' <MP_API_KEY>" in done.stderr
    assert "Exception in thread" in done.stderr and "invalid literal for int()" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("refused ' <MP_API_KEY>")
    assert "https://<credentials>@host" in done.stderr


def test_a_message_that_does_not_fit_its_arguments_is_left_to_logging(tmp_path):
    done = run_script(tmp_path / "a.log", 'import logging; logging.getLogger("x").error("%d", "a"); log.info("after")')
    assert done.returncode == 0 and "INFO after" in (tmp_path / "a.log").read_text()


def test_a_caller_gets_the_exception(tmp_path):
    with pytest.raises(TableError, match="no cell"), logging_to(tmp_path / "a.log", "x"):
        raise TableError("no cell in it")
    assert error_in_log(tmp_path / "a.log") == "no cell in it"


def test_the_first_error_of_several_processes_is_the_one(tmp_path):
    log = tmp_path / "a.log"
    log.write_text(
        "10:00:00 INFO 2 processes\n10:00:01 ERROR process 1 ValueError: the loss is nan at step 3;\nlower it\n"
        "Traceback (most recent call last):\n  File ...\nValueError: the loss\n"
        "10:00:02 ERROR RuntimeError: accelerate launch ended with status 1\n"
    )
    assert error_in_log(log) == "the loss is nan at step 3; lower it"
    log.write_text("10:00:00 INFO an ERROR is no error\n")
    assert error_in_log(log) is None
    assert error_in_log(tmp_path / "absent.log") is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("TableError: a.csv is empty.", "a.csv is empty"),
        ("ValueError: nan", "ValueError: nan"),
        ("KeyError: 'a b c'", "KeyError: 'a b c'"),
        ("RuntimeError: a  b\nc", "a b c"),
    ],
)
def test_sentences(words, sentence):
    assert sentence_of(words) == sentence


def test_failed_jobs_of_one_kind_share_a_line(tmp_path):
    logs = [tmp_path / f"{i}.log" for i in range(5)]
    for log in logs[:3]:
        log.write_text("10:00:00 ERROR TableError: no such potential here\n")
    logs[3].write_text("10:00:00 INFO 3 of 10 rows\n")
    old = time.time() - 1000
    logs[4].write_text("10:00:00 ERROR TableError: of an earlier run\n")
    os.utime(logs[4], (old, old))
    failed = [("relax_structures", [log]) for log in logs] + [("all", [])]
    assert error_lines(failed, time.time() - 60) == [
        f"relax_structures failed (3 jobs): no such potential here; log: {logs[0]}",
        "relax_structures failed (2 jobs): it ended without an error message: killed, or out of memory or time; "
        f"log: {logs[3]}",
        "all failed: it ended without an error message: killed, or out of memory or time; log: Snakemake's own",
    ]
