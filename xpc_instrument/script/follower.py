"""The processes of one application as they come: found, joined, and those born later too.

Rules:
- The doorbell is put up first and the processes are listed second; whoever is born later rings. Looking anyway, now and then, covers a
  process that could not ring.
- `look` returns when all processes that are announced are joined, or cannot be. One that does not finish the handshake in time, such as one
  that is stopped, is waited for once: from then on a thread of its own tries, and nobody waits for that.
- What is followed is what one `xpc-instrument run` started (`Entry.tree`), unless it is every process of that name: a hook meant for one
  application does not land in another that happens to have its name. When all of it has ended, the next of that name is followed.
- Whoever looks holds the lock `_looking`, and takes the session's own inside it; so nobody may look who holds that of the session.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from ..core.discovery import entry as discovery
from ..core.discovery.doorbell import Doorbell
from ..core.model.errors import AmbiguousApplicationError, AuthenticationError, ChannelError, ConnectTimeoutError, DeadlineError
from ..core.node.address import Address, parse_address
from ..core.node.threads import start_seen
from ..core.unpatched import monotonic

log = logging.getLogger("xpc_instrument")

# The doorbell tells of new processes at once; looking anyway, this often in seconds, covers a process that could not ring.
_LOOK_AGAIN = 1.0
# How long ending waits for the thread that looks, in seconds.
_END_TIMEOUT = 5.0


class Follower:
    """Follows the application `app` for a session, whose identifier is `session`.

    `join(address, name)` joins a process and tells it of all hooks, and raises what dialling raises; `is_joined(address)` says whether the
    process at the address is joined now.
    """

    def __init__(
        self, app: str, session: str, join: Callable[[Address, str], None], is_joined: Callable[[str], bool], every: bool, root: str = ""
    ) -> None:
        """Puts up the doorbell: RuntimeDirError or another OSError if that fails.

        With a `root` only the processes of its tree are followed.
        """
        self.app = app
        self._root = root
        self._join_process = join
        self._is_joined = is_joined
        # The tree of processes that is followed, unless every one of that name is.
        self._every = every
        self._tree: Optional[Tuple[str, str]] = None
        self._bell = Doorbell(app, session)
        if root:
            self._bell.follow(root)
        try:
            self._wake_r, self._wake_w = os.pipe()
        except BaseException:
            self._bell.close()
            raise
        self._looking = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._ended = threading.Event()
        # The names of the entries of those that were joined, by address.
        self._names: Dict[str, str] = {}
        # The pids of those that hold another key, and of those that a thread of their own tries to join, by address.
        self._refused: Dict[str, int] = {}
        self._late: Dict[str, int] = {}
        # What has been logged of each process that cannot be joined: it is tried again and again, but logged once.
        self._reported: Dict[str, str] = {}
        self._last_problem = ""
        # The pids of those that have rung, and of those that were joined.
        self._rung: Set[int] = set()
        self._joined: Set[int] = set()

    def wait_for_first(self, joined: Callable[[], bool], timeout: Optional[float]) -> None:
        """Look until a process is joined, at most so many seconds. Raises `ApplicationNotFoundError` or `ChannelError`."""
        deadline = None if timeout is None else monotonic() + timeout
        self.look()
        while not joined():
            remaining = 0.0 if deadline is None else deadline - monotonic()
            if remaining <= 0:
                found = discovery.find(self.app)  # raises, with the names that there are, if the application is not running
                raise ChannelError(f"none of the {len(found)} processes of {self.app} could be joined; the last: {self._last_problem}")
            with selectors.DefaultSelector() as selector:
                selector.register(self._bell, selectors.EVENT_READ)
                selector.select(min(remaining, _LOOK_AGAIN))
            self._rung.update(self._bell.drain())
            self.look()

    def start(self) -> None:
        """From now on, a thread joins processes as they are born."""
        self._thread = start_seen(self._watch, name="watch")

    def end(self) -> None:
        """No process is joined any more, and none that is born waits for this session."""
        self._ended.set()
        if self._thread is not None:
            os.write(self._wake_w, b"w")
            if self._thread is not threading.current_thread():
                self._thread.join(_END_TIMEOUT)
        self.abandon()

    def abandon(self) -> None:
        """In a forked child: close the descriptors. The thread that looks is not there, and may have held the lock of any event."""
        self._bell.close()
        for fd in (self._wake_r, self._wake_w):
            if fd >= 0:
                os.close(fd)
        self._wake_r = self._wake_w = -1

    def unreached(self) -> int:
        """How many processes have told of themselves and ended before they were joined."""
        left = {*self._rung, *self._bell.drain()} - self._joined
        return len(left - {entry.pid for entry in discovery.processes(self.app)}) if left else 0

    # looking -----------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Join the processes of the application that are not joined yet."""
        with self._looking:
            # Those that join may have forked before they answered. Each is tried once, lest one that throws us out again keeps us here.
            tried: Set[str] = set()
            while not self._ended.is_set() and self._join_new(tried):
                pass

    def _join_new(self, tried: Set[str]) -> bool:
        """Join those that are announced now; whether there were any."""
        before = len(tried)
        for entry in self._not_joined():
            address = parse_address(entry.address)
            text = str(address)
            if text in tried or self._is_joined(text) or entry.pid in (self._refused.get(text), self._late.get(text)):
                continue
            tried.add(text)
            try:
                self._join(entry, address)
            except (AuthenticationError, ChannelError) as error:
                if isinstance(error, AuthenticationError):
                    self._refused[text] = entry.pid
                elif isinstance(error, (ConnectTimeoutError, DeadlineError)):
                    self._try_on(entry, address)
                self._report(entry, text, error)
        return len(tried) > before

    def _not_joined(self) -> List[discovery.Entry]:
        """Those that are announced and not joined."""
        known = {name for address, name in list(self._names.items()) if self._is_joined(address)}
        found = discovery.processes(self.app, known)
        if self._root:
            return [entry for entry in found if entry.root == self._root]
        if self._every or not found:
            return found
        if self._tree is None or not known:
            # The first, or the next, once all of the one before have ended.
            trees = {entry.tree for entry in found}
            if len(trees) > 1 and self._tree not in trees:
                raise AmbiguousApplicationError(
                    f"several applications that were started apart are called {self.app!r}: {_told(found)}; expected one: connect to one "
                    "of the pids, or to all of them with all=True, or give them names of their own with --app"
                )
            if self._tree not in trees:
                self._tree = found[0].tree
                self._bell.follow(found[0].root)
        return [entry for entry in found if entry.tree == self._tree]

    def _join(self, entry: discovery.Entry, address: Address) -> None:
        self._join_process(address, f"{entry.app} (pid {entry.pid})")
        self._names[str(address)] = entry.name
        self._joined.add(entry.pid)
        self._reported.pop(str(address), None)

    def _report(self, entry: discovery.Entry, address: str, error: Exception) -> None:
        problem = self._last_problem = f"{entry.app} (pid {entry.pid}): {error}"
        # A short-lived process may be gone by now, which is nothing to warn of.
        news = self._reported.get(address) != problem and self._is_alive(entry)
        self._reported[address] = problem
        log.log(logging.WARNING if news else logging.DEBUG, "cannot join %s", problem)

    def _is_alive(self, entry: discovery.Entry) -> bool:
        return any(one.pid == entry.pid for one in discovery.processes(self.app))

    def _try_on(self, entry: discovery.Entry, address: Address) -> None:
        """Have a thread of its own join a process that was too late, however long that takes."""
        self._late[str(address)] = entry.pid
        try:
            start_seen(self._join_late, entry, address, name="joining")
        except RuntimeError as error:
            self._late.pop(str(address), None)
            log.warning("no thread can be started that waits for %s (pid %d): %s", entry.app, entry.pid, error)

    def _join_late(self, entry: discovery.Entry, address: Address) -> None:
        try:
            while not self._ended.wait(_LOOK_AGAIN) and self._is_alive(entry):
                try:
                    self._join(entry, address)
                except (ConnectTimeoutError, DeadlineError) as error:
                    log.debug("%s (pid %d) is late still: %s", entry.app, entry.pid, error)
                else:
                    log.warning("%s (pid %d) is joined now", entry.app, entry.pid)
                    return
        except (AuthenticationError, ChannelError, OSError) as error:
            # From now on it is looked at like the others.
            self._report(entry, str(address), error)
        finally:
            self._late.pop(str(address), None)

    def _watch(self) -> None:
        trouble = ""
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            selector.register(self._wake_r, selectors.EVENT_READ)
            while not self._ended.is_set():
                selector.select(_LOOK_AGAIN)
                if self._ended.is_set():
                    return
                self._rung.update(self._bell.drain())
                try:
                    self.look()
                except AmbiguousApplicationError as error:
                    if repr(error) != trouble:
                        log.warning("%s", error)
                    trouble = repr(error)
                except Exception as error:
                    # Such as for want of descriptors: said once, not every second while it lasts.
                    if repr(error) != trouble:
                        log.exception("looking for new processes of %s failed; they are looked for again and again", self.app)
                    trouble = repr(error)
                else:
                    if trouble:
                        log.warning("new processes of %s are found again", self.app)
                    trouble = ""


def _told(entries: Sequence[discovery.Entry]) -> str:
    """The pids, those of one tree together, each tree with a command line."""
    trees: Dict[Tuple[str, str], List[discovery.Entry]] = {}
    for entry in entries:
        trees.setdefault(entry.tree, []).append(entry)
    parts = []
    for members in trees.values():
        pids = ", ".join(str(entry.pid) for entry in members)
        parts.append(f"pid{'s' if len(members) > 1 else ''} {pids} (`{' '.join(members[0].argv)[:60]}`)")
    return ", and ".join(parts)
