"""Log lines that leave no trace of the thread that wrote them.

`logging` asks `threading` for the name of the thread, and `threading` makes a dummy for each thread that it has not started, which the
application would find among its own, for as long as it runs below Python 3.12. Ours are such threads (see `core/node/host.py`).
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable


def leave_no_dummies(logger: logging.Logger) -> None:
    """Have `threading` forget a dummy that was made for nothing but a line of this logger. May be called again."""
    make: Callable[..., logging.LogRecord] = logger.makeRecord
    if getattr(make, "leaves_no_dummies", False):
        return

    def make_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        # As `threading` does: looked up each time, since gevent replaces it.
        ident = threading.get_ident()
        known = ident in threading._active  # type: ignore[attr-defined]
        try:
            return make(*args, **kwargs)
        finally:
            if not known:
                threading._active.pop(ident, None)  # type: ignore[attr-defined]

    make_record.leaves_no_dummies = True  # type: ignore[attr-defined]
    logger.makeRecord = make_record  # type: ignore[method-assign]
