"""What is loaded when a script first asks for it, a hook of that kind or a report: it would cost a start-up milliseconds.

Rules:
- It is loaded in the service thread, for which a fork waits as long as `life/forks.py` says; a child that has half a module all the same
  loads it anew (`late.py`). What a thread of the application may need first, as it imports a module with a target, is loaded with the
  agent.
- It is loaded while no lock is held (see `points/table.py`).
- Where it cannot be loaded any more, the script is told so.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Dict, Iterator, Set

from xpc_instrument.core.calls.registry import read_terms
from xpc_instrument.core.config.schema import Config
from xpc_instrument.core.model.errors import TargetError, XpcError
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.protocol.messages import Register

from .. import collecting
from ..events.sender import Sender
from ..late import calm, hurry, kept, put_back
from ..points.table import ProbeTable

if TYPE_CHECKING:
    from xpc_instrument.core.values.redaction import Redaction

    from .making import Making


# What has been loaded.
_loaded: Set[Any] = set()


@contextmanager
def _loading(what: Any) -> Iterator[None]:
    """What is imported meanwhile is of one copy with the rest. Raises `TargetError` if it cannot be imported."""
    put_back()
    first = what not in _loaded
    if first:
        collecting.hold()
    hurry()
    try:
        yield
        _loaded.add(what)
    except XpcError:
        raise
    except Exception as error:
        raise TargetError(
            f"what this takes cannot be loaded in pid {os.getpid()} any more ({type(error).__name__}: {error}): what is installed, "
            "sys.path or the root folder has changed there since the agent began; start the application again"
        ) from error
    finally:
        calm()
        if first:
            collecting.let_go()


def terms_of(message: Register) -> Terms:
    """As `read_terms`."""
    local: Any = message.terms.get("local")
    with _loading(("terms", *sorted(message.terms), local.get("kind") if isinstance(local, dict) else None)):
        return read_terms(message)


def making_of(terms: Terms, sender: Sender, redaction: Redaction, table: ProbeTable) -> Making:
    """What the hooks of a registration with these terms are made of."""
    kind = None if terms.local is None else terms.local["kind"]
    with _loading((kind, terms.wait, terms.when is None)):
        from .making import Making

        return Making(terms, sender, redaction, table)


def replays_of(config: Config, table: ProbeTable, redaction: Redaction) -> Any:
    """As `replays.Replays`."""
    with _loading("replays"):
        from .replays import Replays

    return Replays(config, table, redaction)


def search(text: str, table: ProbeTable) -> Dict[str, Any]:
    """As `search.search`."""
    with _loading("search"):
        from .search import search

    return search(text, table)


def stacks() -> Dict[str, Any]:
    """As `stacks.told`."""
    with _loading("stacks"):
        from .stacks import told

    return told()


def reset_loaded() -> None:
    """In a forked child: chance is to differ from the parent's, and the tool id of `sys.monitoring` is the child's own."""
    calm()
    admission: Any = kept("xpc_agent.hooks.admission")
    if admission is not None:
        admission.reseed()
    monitoring: Any = kept("xpc_agent.monitoring")
    if monitoring is not None:
        monitoring.monitoring.reset_after_fork()
