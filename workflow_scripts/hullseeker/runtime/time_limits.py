"""A time limit per structure, because library code can hang on a degenerate geometry.

Needs: the standard library, on a system with SIGALRM.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitError(BaseException):
    """The time limit was exceeded; a BaseException, so that no `except Exception` of a library catches it."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Context manager: raise TimeLimitError after `seconds` (None: no limit); ValueError outside the main thread."""
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("time_limit works in the main thread only; set time_limit_s to null elsewhere")

    def raise_error(_signal, _frame) -> None:
        raise TimeLimitError(f"took longer than {seconds:g} s")

    previous_handler = signal.signal(signal.SIGALRM, raise_error)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)
