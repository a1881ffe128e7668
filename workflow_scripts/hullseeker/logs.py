"""One log format, one progress bar, one closing line of counts.

Needs: tqdm.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


@contextmanager
def logging_to(path: str | Path | None, name: str) -> Iterator[logging.Logger]:
    """Log to the rule's log file (stderr where there is none); an error is logged before it is raised."""
    logger = logging.getLogger(f"hullseeker.{name}")
    logger.handlers.clear()
    handler = logging.FileHandler(path, mode="w") if path else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
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
