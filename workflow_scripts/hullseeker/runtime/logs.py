"""One log format, one progress bar, one closing line of counts; an error's trace in the log, its sentence outside.

Needs: tqdm.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from hullseeker.runtime.credentials import without_secrets

Item = TypeVar("Item")

# Set by the launcher of a training in several processes (launching.py), with its own process id.
LAUNCHER = "HULLSEEKER_LAUNCHER"
_LINE = re.compile(r"\d\d:\d\d:\d\d (?P<level>[A-Z]+)(?: process \d+)? (?P<text>.*)")
# Kinds of error whose words say all; of the others the kind is a part of the sentence.
_PLAIN = re.compile(
    r"(?:TableError|ValueError|RuntimeError|FileNotFoundError|OSError|ExtractionError|DataError|CredentialError): "
    r"(?=\S+ \S+ )"
)


def launched_rank() -> int | None:
    """Return which of a launcher's processes this one is, from 0; None where no launcher started it."""
    return int(os.environ["RANK"]) if LAUNCHER in os.environ else None


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


_make_record = logging.getLogRecordFactory()


def _record_without_secrets(*args, **kwargs) -> logging.LogRecord:
    """Make a log record, of whatever package, without secrets in its message and its trace."""
    record = _make_record(*args, **kwargs)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # logging itself reports a message that does not fit its arguments
        return record
    if (shown := without_secrets(message)) != message:
        record.msg, record.args = shown, ()
    if record.exc_info and record.exc_info[0]:
        record.exc_text = without_secrets("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record


@contextmanager
def logging_to(path: str | Path | None, name: str) -> Iterator[logging.Logger]:
    """Log to the rule's log file (stderr where there is none); an error is logged before it is raised.

    The log has the error's trace; a script that it ends prints one sentence. Of the processes that a launcher started,
    all write to the launcher's file, those beyond the first only errors.
    """
    rank = launched_rank()
    logger = logging.getLogger(f"hullseeker.{name}")
    logger.handlers.clear()
    if path and rank is None:
        Path(path).write_text("")  # what further processes append is not written over
    handler = logging.FileHandler(path, mode="a") if path else logging.StreamHandler()
    who = f" process {rank}" if rank else ""
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)s{who} %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if rank else logging.INFO)
    warnings.filterwarnings("ignore")
    logging.setLogRecordFactory(_record_without_secrets)
    sys.excepthook = _print_sentence
    threading.excepthook = _print_trace_of_thread
    try:
        yield logger
    except BaseException as error:
        logger.error("%s: %s", type(error).__name__, error, exc_info=True)
        # Exceptions take any attribute; _print_sentence reads this one.
        error.is_logged_in = str(path) if path else None  # type: ignore[attr-defined]
        raise
    finally:
        handler.close()


def _print_sentence(kind: type[BaseException], error: BaseException, trace) -> None:
    """Print an uncaught error: in one sentence where a log has its trace, else as Python does."""
    if path := getattr(error, "is_logged_in", None):
        print(f"{sentence_of(f'{kind.__name__}: {error}')} (trace: {path})", file=sys.stderr)
    else:
        print(without_secrets("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _print_trace_of_thread(args) -> None:
    """Print an uncaught error of a thread as Python does."""
    trace = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
    name = args.thread.name if args.thread else "unknown"
    print(f"Exception in thread {name}:\n{without_secrets(trace)}", end="", file=sys.stderr)


def sentence_of(words: str) -> str:
    """Return an error's kind and words on one line, without its kind where the words say all."""
    return without_secrets(_PLAIN.sub("", " ".join(words.split()), count=1)).rstrip(".")


def error_in_log(path: str | Path) -> str | None:
    """Return the sentence of the first error in a rule's log, None where it has none or cannot be read."""
    try:
        lines = iter(Path(path).read_text(errors="replace").splitlines())
    except OSError:
        return None
    for line in lines:
        found = _LINE.fullmatch(line)
        if found and found["level"] == "ERROR":
            words = [found["text"]]
            for further in lines:
                if _LINE.fullmatch(further) or further.startswith("Traceback (most recent call last)"):
                    break
                words.append(further)
            return sentence_of(" ".join(words))
    return None


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterable[Item]:
    """Wrap in a progress bar that shows on a terminal and is silent elsewhere."""
    return tqdm(items, desc=what, total=total, disable=not sys.stderr.isatty(), leave=False)


def close_with_counts(logger: logging.Logger, statuses: Iterable[str], seconds: float) -> None:
    """Log the closing line: how many rows ended with each status, and the seconds it took."""
    counts = Counter(statuses)
    logger.info(
        "done: %d rows in %.1f s; %s", counts.total(), seconds, ", ".join(f"{k} {v}" for k, v in sorted(counts.items()))
    )
