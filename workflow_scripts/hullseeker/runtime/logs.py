"""Log files of the rules: format, progress bars, summary line; errors go to the log with their traceback.

On the terminal, an error of a script is a single line.

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

# Set to the launcher's process id in every process of a distributed training (launching.py).
LAUNCHER = "HULLSEEKER_LAUNCHER"
_LINE = re.compile(r"\d\d:\d\d:\d\d (?P<level>[A-Z]+)(?: process \d+)? (?P<text>.*)")
# Exception types that the one-line message omits if the text after them has several words; others are kept.
_OMITTED_TYPE = re.compile(
    r"(?:TableError|ValueError|RuntimeError|FileNotFoundError|OSError|ExtractionError|DataError|CredentialError): "
    r"(?=\S+ \S+ )"
)


def launched_rank() -> int | None:
    """Return the rank of this process in a distributed training, None if the launcher did not start it."""
    return int(os.environ["RANK"]) if LAUNCHER in os.environ else None


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


_make_record = logging.getLogRecordFactory()


def _record_without_secrets(*args, **kwargs) -> logging.LogRecord:
    """Create a log record, of any package, with the secrets in its message and traceback masked."""
    record = _make_record(*args, **kwargs)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # wrong format arguments are reported by logging itself
        return record
    if (masked := without_secrets(message)) != message:
        record.msg, record.args = masked, ()
    if record.exc_info and record.exc_info[0]:
        record.exc_text = without_secrets("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record


@contextmanager
def logging_to(path: str | Path | None, name: str) -> Iterator[logging.Logger]:
    """Context manager: yield a logger that writes to the rule's log file, or to stderr if `path` is None.

    An exception is logged with its traceback and raised again; a script that it ends prints one line. In a distributed
    training all processes append to the launcher's log file; ranks above 0 log errors only.
    """
    rank = launched_rank()
    logger = logging.getLogger(f"hullseeker.{name}")
    logger.handlers.clear()
    if path and rank is None:
        Path(path).write_text("")  # start empty; distributed processes append
    handler = logging.FileHandler(path, mode="a") if path else logging.StreamHandler()
    process = f" process {rank}" if rank else ""
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)s{process} %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if rank else logging.INFO)
    warnings.filterwarnings("ignore")
    logging.setLogRecordFactory(_record_without_secrets)
    sys.excepthook = _print_error
    threading.excepthook = _print_error_of_thread
    try:
        yield logger
    except BaseException as error:
        logger.error("%s: %s", type(error).__name__, error, exc_info=True)
        # Read by _print_error.
        error.hullseeker_log_path = str(path) if path else None  # type: ignore[attr-defined]
        raise
    finally:
        handler.close()


def _print_error(kind: type[BaseException], error: BaseException, trace) -> None:
    """Print an uncaught exception: on one line if its traceback is in a log, else in full."""
    if path := getattr(error, "hullseeker_log_path", None):
        print(f"{sentence_of(f'{kind.__name__}: {error}')} (trace: {path})", file=sys.stderr)
    else:
        print(without_secrets("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _print_error_of_thread(args) -> None:
    """Print an uncaught exception of a thread as Python does, with secrets masked."""
    trace = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
    name = args.thread.name if args.thread else "unknown"
    print(f"Exception in thread {name}:\n{without_secrets(trace)}", end="", file=sys.stderr)


def sentence_of(message: str) -> str:
    """Return an error message ("ValueError: ...") on one line, without the exception type if it adds nothing."""
    return without_secrets(_OMITTED_TYPE.sub("", " ".join(message.split()), count=1)).rstrip(".")


def error_in_log(path: str | Path) -> str | None:
    """Return the first error in a rule's log on one line, None if there is none or the log cannot be read."""
    try:
        lines = iter(Path(path).read_text(errors="replace").splitlines())
    except OSError:
        return None
    for line in lines:
        match = _LINE.fullmatch(line)
        if match and match["level"] == "ERROR":
            message = [match["text"]]
            for next_line in lines:
                if _LINE.fullmatch(next_line) or next_line.startswith("Traceback (most recent call last)"):
                    break
                message.append(next_line)
            return sentence_of(" ".join(message))
    return None


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Wrap an iterable in a progress bar, which is shown on a terminal only."""
    return tqdm(items, desc=description, total=total, disable=not sys.stderr.isatty(), leave=False)


def close_with_counts(logger: logging.Logger, statuses: Iterable[str], seconds: float) -> None:
    """Log the summary of a job: the number of rows by status, and the run time in seconds."""
    counts = Counter(statuses)
    logger.info(
        "done: %d rows in %.1f s; %s", counts.total(), seconds, ", ".join(f"{k} {v}" for k, v in sorted(counts.items()))
    )
