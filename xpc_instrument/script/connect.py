"""`connect`: which processes a session is to join, and waiting for them to be there."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Callable, Optional, Union

from ..core.discovery import entry as discovery
from ..core.discovery.name import app_mistake
from ..core.model.errors import ApplicationNotFoundError, NobodyListensError
from ..core.model.limits import Limits
from ..core.node.address import AddressLike, Protection, parse_address
from ..core.unpatched import monotonic
from .session import Session

if TYPE_CHECKING:
    from ..core.wire.tls import TLS

# How long `connect` waits until it looks again for a process that is not there yet, in seconds; nobody rings for a pid or an address.
_TRY_AGAIN = 0.05


def connect(
    application: Union[str, int, AddressLike],
    authkey: Union[str, bytes, None] = None,
    *,
    timeout: Optional[float] = None,
    limits: Optional[Limits] = None,
    tls: Optional[TLS] = None,
    plaintext_beyond_loopback: bool = False,
    all: bool = False,
    root: Optional[int] = None,
) -> Session:
    """Join an instrumented application: by its name (all its processes, those born later too), a pid (that process) or an address.

    ``timeout`` is how many seconds to wait for an application that is not there yet, such as one that has just been started. An application
    on TCP needs its ``authkey``, and beyond loopback ``tls`` too, unless ``plaintext_beyond_loopback`` says that it does not.

    A name means what one ``xpc-instrument run`` started: the program, and all that it starts in turn. Where several have the name,
    ``AmbiguousApplicationError`` tells their pids, ``root=PID`` joins the one whose ``xpc-instrument run`` had that pid, as has the program
    that it became, and ``all=True`` joins them all. When the application has ended, the session goes on
    with the one that is started next under that name.

    Raises ``ApplicationNotFoundError``, ``AuthenticationError``, ``ConnectionRefusedError`` or ``TimeoutError``, ``ConfigError`` for
    certificates that cannot be loaded, and ``ValueError`` for a negative ``timeout``.
    """
    if application is None or isinstance(application, bool):
        raise TypeError(f"application: expected an app name, a pid or an address, got {application!r}")
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout={timeout!r:.100}: expected a number of seconds from 0 on, or None to wait for nothing")
    if root is not None and (all or not isinstance(application, str) or application.isdigit() or _is_address(application)):
        raise ValueError(f"root={root!r:.100}: expected with the name of an application, and without all=True; got {application!r:.200}")
    key = authkey.encode() if isinstance(authkey, str) else authkey or b""
    if tls is not None:
        tls.load()
    session = Session(limits or Limits(), key, Protection(tls, plaintext_beyond_loopback))
    try:
        if isinstance(application, int) or (isinstance(application, str) and application.isdigit()):
            _when_there(lambda: _join_pid(session, int(application)), timeout)
        elif isinstance(application, str) and not _is_address(application):
            mistake = app_mistake(application)
            if mistake:
                raise ApplicationNotFoundError(f"{application!r:.200} {mistake}")
            session._follow(application, timeout, all, "" if root is None else str(root))
        else:
            address = parse_address(application)
            _when_there(lambda: session._join(address, str(address)), timeout)
            session._fixed = True
    except BaseException:
        session.close()
        raise
    return session


def _join_pid(session: Session, pid: int) -> None:
    entry = discovery.find(pid)[0]
    session._join(parse_address(entry.address), f"{entry.app} (pid {entry.pid})")


def _when_there(join: Callable[[], None], timeout: Optional[float]) -> None:
    """Join one process, waiting up to `timeout` seconds for it to be there."""
    deadline = monotonic() + (timeout or 0.0)
    while True:
        try:
            join()
            return
        except (ApplicationNotFoundError, NobodyListensError):
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise
        time.sleep(min(_TRY_AGAIN, remaining))


def _is_address(text: str) -> bool:
    return text.startswith(("unix:", "tcp:")) or os.sep in text
