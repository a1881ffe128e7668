"""One log format, one progress bar, one closing line of counts.

Needs: tqdm.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

# Set by the launcher of a training in several processes (launching.py), with its own process id.
LAUNCHER = "HULLSEEKER_LAUNCHER"


def launched_rank() -> int | None:
    """Return which of a launcher's processes this one is, from 0; None where no launcher started it."""
    return int(os.environ["RANK"]) if LAUNCHER in os.environ else None


@contextmanager
def logging_to(path: str | Path | None, name: str) -> Iterator[logging.Logger]:
    """Log to the rule's log file (stderr where there is none); an error is logged before it is raised.

    Of the processes that a launcher started, all write to the launcher's file, those beyond the first only errors.
    """
    rank = launched_rank()
    logger = logging.getLogger(f"hullseeker.{name}")
    logger.handlers.clear()
    handler = logging.FileHandler(path, mode="w" if rank is None else "a") if path else logging.StreamHandler()
    who = f" process {rank}" if rank else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s{who} %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if rank else logging.INFO)
    warnings.filterwarnings("ignore")
    try:
        yield logger
    except BaseException as error:
        logger.error("%s: %s", type(error).__name__, error, exc_info=not isinstance(error, (ValueError, OSError)))
        raise
    finally:
        handler.close()


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterable[Item]:
    """Wrap in a progress bar that shows on a terminal and is silent elsewhere."""
    return tqdm(items, desc=what, total=total, disable=not sys.stderr.isatty(), leave=False)


def close_with_counts(logger: logging.Logger, statuses: Iterable[str], seconds: float) -> None:
    """Log the closing line: how many rows ended with each status, and the seconds it took."""
    counts = Counter(statuses)
    logger.info(
        "done: %d rows in %.1f s; %s", counts.total(), seconds, ", ".join(f"{k} {v}" for k, v in sorted(counts.items()))
    )
