"""What is loaded when a script first asks for it, a hook of that kind or a report: it would cost a start-up milliseconds.

Rules:
- It is loaded in the service thread, for which a fork waits: a child never has half a module. What a thread of the application may need
  first, as it imports a module with a target, is loaded with the agent.
- It is loaded while no lock is held (see `points/table.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict

from xpc_instrument.core.config.schema import Config
from xpc_instrument.core.model.terms import Terms

from ..events.sender import Sender
from ..late import kept, put_back
from ..points.table import ProbeTable

if TYPE_CHECKING:
    from xpc_instrument.core.values.redaction import Redaction

    from .making import Making


def making_of(terms: Terms, sender: Sender, redaction: Redaction, table: ProbeTable) -> Making:
    """What the hooks of a registration with these terms are made of."""
    put_back()
    from .making import Making

    return Making(terms, sender, redaction, table)


def replays_of(config: Config, table: ProbeTable, redaction: Redaction) -> Any:
    """As `replays.Replays`."""
    put_back()
    from .replays import Replays

    return Replays(config, table, redaction)


def search(text: str, table: ProbeTable) -> Dict[str, Any]:
    """As `search.search`."""
    put_back()
    from .search import search

    return search(text, table)


def stacks() -> Dict[str, Any]:
    """As `stacks.told`."""
    put_back()
    from .stacks import told

    return told()


def reset_loaded() -> None:
    """In a forked child: chance is to differ from the parent's, and the tool id of `sys.monitoring` is the child's own."""
    admission: Any = kept("xpc_agent.hooks.admission")
    if admission is not None:
        admission.reseed()
    monitoring: Any = kept("xpc_agent.monitoring")
    if monitoring is not None:
        monitoring.monitoring.reset_after_fork()
