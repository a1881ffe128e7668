"""A limit on the time that one structure may take: others' code may hang on a hopeless geometry.

Needs: nothing beyond Python, on a system with SIGALRM.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitError(BaseException):
    """The time limit passed. Not an Exception, so that no library's `except Exception` swallows it."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeLimitError in the body after `seconds`; no limit for None. Main thread only (ValueError elsewhere)."""
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("time_limit works in the main thread only; set time_limit_s to null elsewhere")

    def stop(_signal, _frame) -> None:
        raise TimeLimitError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
