"""Stands in for the agent in a Python process whose environment says so, until there is something for it to do.

This folder is put first on PYTHONPATH by `xpc-instrument run`. The agent takes 50 to 100 ms of processor time to import; this takes one or
two, and most processes need no more.

Rules:
- The application must start as if nothing of this were there, whatever happens; and its own sitecustomize, which this one hides, is run.
- Only builtins and what Python has loaded by now are used: `_socket` and `select` where the process listens, and nothing else.
- A process listens from its start if it is the one that was started, or if something in it may be hooked on demand; it is announced as the
  agent would announce it. A raw thread waits at the listening socket, with all signals blocked; it ends before a fork and goes on after it.
- The agent is loaded when a module with a target is imported, when somebody connects, and at the start if a script waits for the
  application or a target is there already. Whichever thread comes first loads it, the others go on: one that waited inside of an import
  could hold the lock of a module that the loading needs. What they import meanwhile is looked at when the agent is there (`missed`).
- A forked child does what a started one does; what its parent listens at stays the parent's.

Over 500 lines: one file, since to find another one costs each process as much as half of what is in here.
"""

from __future__ import annotations

import os
import sys
from _thread import _local, allocate_lock, get_ident, get_native_id, stack_size, start_new_thread
from time import sleep, time

# Not to be imported when a process starts.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What `os` has under these names may be gevent's or eventlet's by the time that it is called, and make a hub.
_posix: Any = sys.modules[os.name]

_HERE = os.path.dirname(os.path.abspath(__file__))
_VARIABLE = "XPC_INSTRUMENT_STUB"
# The descriptor and the inode of a pipe for which the program waits before it begins, and for how many milliseconds.
_HOLD = "XPC_INSTRUMENT_HOLD"
_HELD = 10_000
_MAIN = "XPC_INSTRUMENT_MAIN_PID"
# What takes part in saying where the runtime directory is (core/discovery/folder.py).
_FOLDERS = ("XPC_INSTRUMENT_RUNTIME_DIR", "XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP")
# How long a fork waits for the thread that listens to end, and for one that loads the agent, in seconds. That takes a tenth of a second
# of processor time; a child that does not have the agent's modules whole stays without the agent.
_PATIENCE = 1.0
_LOADING_PATIENCE = 5.0
# Where there is no room for it, the agent is loaded so many milliseconds later; so many descriptors are enough to import and to listen.
_AGAIN = 500
_ROOM = 12
# How long a thread of the application that computes may keep the others waiting while the agent is loaded, in seconds (`late.py`).
_SWITCHING = 0.0002
# What our thread has of stack at least, in bytes, where the application has made those of new threads smaller.
_STACK = 1 << 20
_WAITING, _LOADING, _OVER = range(3)
# For how many seconds the application may collect garbage between two of the parts in which the agent is loaded.
_BREATH = 0.0005
_PARTS = (
    "_queue",
    "xpc_instrument.core.config.packed",
    "xpc_instrument.core.node.host",
    "xpc_agent.points.table",
    "xpc_agent.service.registrations",
)
# Beside `logging` the one module of the standard library that takes a lock for the time of a fork.
_POOLS = "concurrent.futures.thread"


class _Loader:
    """As the one of `targets/imports.py`: it stands before a module's own loader for the time between finding and executing it.

    The agent is not loaded while a module is looked for: then the thread holds the lock of all imports, and one that has half imported
    what the agent needs would wait for it for ever, and the agent for that thread.
    """

    def __init__(self, loader: Any, name: str, stub: Stub) -> None:
        self._xpc_loader = loader
        self._xpc_name = name
        self._xpc_stub = stub

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # what asks `importlib.util.find_spec` for a loader looks at its kind
        return self._xpc_loader.__class__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_xpc_"):  # a copy in the making has none yet
            raise AttributeError(name)
        return getattr(self._xpc_loader, name)

    def create_module(self, spec: Any) -> Any:
        if spec.loader is not self:
            return self._xpc_loader.create_module(spec)
        spec.loader = self._xpc_loader
        try:
            return self._xpc_loader.create_module(spec)
        finally:
            if spec.loader is self._xpc_loader:
                spec.loader = self

    def exec_module(self, module: Any) -> None:
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.loader is self:
            spec.loader = self._xpc_loader
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self._xpc_loader
        self._xpc_stub.execute(self._xpc_loader, module, self._xpc_name)


class Stub:
    """What the variable says, and how far this process is. `listener` is the descriptor that the agent takes over, or -1."""

    def __init__(self, text: str) -> None:
        facts = dict(line.split(" ", 1) for line in text.split("\n"))
        self.app, self.folder, self.version = facts["app"], facts["folder"], facts["version"]
        self.quoted = facts["quoted"]
        # The modules with targets, by name or by the letters that they begin with; and what may be hooked on demand, packages, "" for all.
        self.modules = frozenset(filter(None, facts["modules"].split(",")))
        self.prefixes = tuple(name[:-1] for name in self.modules if name.endswith("*"))
        self.on_demand = tuple(name.strip() for name in facts["on-demand"].split(",") if name)
        self.listener = -1
        self.missed: list[str] = []
        # Runs a module and has the agent told; None while there is no agent.
        self.run: Any = None
        self._here = _local()
        self.state = _WAITING
        self.loader = 0
        self.pid = os.getpid()
        self.main = get_ident()
        self._inode = 0
        self._once, self._done = allocate_lock(), allocate_lock()
        # Of the thread: released by it as its last step; the end of its pipe that wakes it, -1 once that is used, and the pipe's inode.
        self._over: Any = None
        self._wake = self._pipe = -1
        self._native = 0
        # The forks that are under way, and whether they have to wait for a loading.
        self._follows_forks = self._is_first = self._had_logging = False
        self._gate = allocate_lock()
        self._forks = 0
        self._committed = False
        self._usual = 0.0
        # What has garbage collected again that was put off; nothing is.
        self._enable: Any = int
        self._complained = ""

    # what it is about ----------------------------------------------------------------------------------------------------

    def has_targets(self, name: str) -> bool:
        """Whether a module of that name has targets."""
        return name in self.modules or bool(self.prefixes and name.startswith(self.prefixes))

    def is_on_demand(self, name: str) -> bool:
        """Whether something in a module of that name may be hooked on demand."""
        return any(not package or name == package or name.startswith(package + ".") for package in self.on_demand)

    def begin(self, main: bool) -> None:
        """In a process that starts; `main`: it is the one that was started, and not one that it has started."""
        try:
            loaded = list(sys.modules)
            if main or any(map(self.is_on_demand, loaded)):
                self.listen()
            if any(map(self.has_targets, loaded)) or (self.listener >= 0 and self.is_awaited()):
                self.load()
                return
        except Exception:
            # Whatever it is, the agent says it better.
            self.load()
            return
        sys.meta_path.insert(0, self)
        self._follows_forks = True
        self._had_logging = "logging" in sys.modules
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child)
        import atexit

        atexit.register(self._at_exit)
        if self.listener >= 0:
            self._start_thread()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Part of the import system's protocol: what the other finders find, with a loader that looks after the agent first."""
        if self.state == _OVER or not self._concerns(name):
            return None
        finding = self._here.__dict__.setdefault("finding", set())
        # A finder may ask all finders itself for the module that it is asked for. What the agent imports itself is looked at afterwards.
        if name in finding or (self.state == _LOADING and self.loader == get_ident()):
            return None
        finding.add(name)
        try:
            spec = self._find(name, path, target)
        finally:
            finding.discard(name)
        loader = getattr(spec, "loader", None)
        if loader is None or type(loader) is _Loader or not (hasattr(loader, "exec_module") and hasattr(loader, "create_module")):
            return spec
        try:
            spec.loader = _Loader(loader, name, self)
        except Exception:
            self.missed.append(name)
        return spec

    def _concerns(self, name: str) -> bool:
        return self.has_targets(name) or (self.listener < 0 and self.is_on_demand(name))

    def _find(self, name: str, path: Any, target: Any) -> Any:
        for finder in list(sys.meta_path):
            if finder is self:
                continue
            find = getattr(finder, "find_spec", None)
            if find is not None:
                spec = find(name, path, target)
                if spec is not None:
                    return spec
            elif sys.version_info < (3, 12) and hasattr(finder, "find_module"):
                return None  # its turn comes before the rest's, by a protocol that only the import system speaks
        return None

    def execute(self, loader: Any, module: Any, name: str) -> None:
        """Have a module run, with the agent there if it has targets."""
        try:
            if self.has_targets(name):
                self.load()
            elif self.state == _WAITING and self.listener < 0:
                self.listen()
                if self.is_awaited():
                    self.load()
                else:
                    self._start_thread()
        except OSError:
            self.load()
        if self.run is None:
            # Another thread loads the agent, and will look at it.
            self.missed.append(name)
            loader.exec_module(module)
        else:
            self.run(loader, module, name)

    # the agent -----------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Load the agent and have it take over. Not a second time, and not while another thread does."""
        if self.state != _WAITING or not self._once.acquire(False):
            return
        self.loader, self.state = get_ident(), _LOADING
        self._done.acquire()
        is_put_off = False
        self._usual = sys.getswitchinterval()
        try:
            self._put_collections_off()
            sys.setswitchinterval(min(self._usual, _SWITCHING))
            _check_room()
            _prepare()
            is_put_off = not self._may_load()
            if not is_put_off:
                for part in _PARTS:
                    __import__(part)
                    self._breathe()
                from xpc_agent.life.autostart import autostart

                self._have_collections()
                if not _is_same(self.listener, self._inode):
                    # The application has closed all descriptors, as daemons do; the number may be one of its own by now.
                    self.listener = -1
                self.run = autostart(self)
        except BaseException as error:
            is_put_off = _is_passing(error)
            if not is_put_off:
                self.withdraw()
            if not isinstance(error, Exception):
                raise
            self._complain(error, "it is tried again" if is_put_off else "this process is not instrumented")
            interrupts = sys.modules.get("xpc_instrument.core.model.interrupts")
            if interrupts is not None:
                interrupts.raise_interrupt(error)
        finally:
            # Twice, as up to Python 3.10 a signal handler may raise at the beginning of the first.
            try:
                self._enable()
            except BaseException:
                self._enable()
                raise
            self._calm()
            if is_put_off:
                with self._gate:
                    self._committed = False
                self.state = _WAITING
                self._once.release()
            else:
                self.state = _OVER
                self._leave_imports()
                self._end_thread(0.0)
            self._done.release()

    def _complain(self, error: BaseException, what: str) -> None:
        if what != self._complained:
            self._complained = what
            _say("the agent cannot be loaded (%s); %s" % (error, what))

    def _may_load(self) -> bool:
        """Have forks wait for the loading from now on, once those are over that are under way; False in our own thread, which they end."""
        if self.is_in_own_thread and "threading" not in sys.modules:
            from xpc_agent.life.interpreter import import_threading

            import_threading(self.main)
        if not self._follows_forks:
            return True
        if not self._is_first:
            # What is registered last comes first at a fork: before `logging` takes its lock, without which the loading does not end.
            import logging  # noqa: F401

            os.register_at_fork(before=self._await_loading)
            self._is_first = True
        while True:
            with self._gate:
                if not self._forks:
                    self._committed = True
                    return True
            if self.is_in_own_thread:
                return False
            sleep(0.0005)

    def _calm(self) -> None:
        """Threads that compute take the turns that they took before, unless the application has set that meanwhile; and collect again."""
        self._have_collections()
        if sys.getswitchinterval() <= _SWITCHING < self._usual:
            sys.setswitchinterval(self._usual)

    def _breathe(self) -> None:
        """Have the application collect what is due, while no lock of an import is held."""
        self._have_collections()
        if self.is_in_own_thread:
            sleep(_BREATH)
        self._put_collections_off()

    def _put_collections_off(self) -> None:
        """Have none run here, with code of the application that waits for one which imports (collecting.py)."""
        gc = sys.modules.get("gc") or _collector()
        if gc.isenabled():
            self._enable = gc.enable
            gc.disable()

    def _have_collections(self) -> None:
        self._enable()
        self._enable = int

    def _leave_imports(self) -> None:
        for index, finder in enumerate(sys.meta_path):
            if finder is self:
                del sys.meta_path[index]
                break

    # listening -----------------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Listen as core/node/listen.py does, and be announced as core/discovery/entry.py does. OSError if that cannot be."""
        from _socket import AF_UNIX, SOCK_STREAM, socket

        self.pid = os.getpid()
        path = "%s/%s.%d" % (self.folder, self.app, self.pid)
        temporary = "%s.%s" % (path, os.urandom(4).hex())
        listener = socket(AF_UNIX, SOCK_STREAM)
        listener.bind(temporary)
        try:
            os.chmod(temporary, 0o600)
            listener.listen(128)
            os.link(temporary, path + ".sock")
        finally:
            os.unlink(temporary)
        listener.setblocking(False)
        started, stack = _of_process()
        entry = (
            '{"app": "%s", "pid": %d, "ppid": %d, "address": "unix:%s/%s.%d.sock", "started": %s, "since": %r, "argv": [], '
            '"python": "%d.%d.%d", "version": "%s", "member": "", "namespace": "%s", "root": "%s", "stack": %s}'
        ) % (
            *(self.app, self.pid, os.getppid(), self.quoted, self.app, self.pid, started, time(), *sys.version_info[:3]),
            *(self.version, _pid_namespace(), int(os.environ.get(_MAIN, "0")), stack),
        )
        descriptor = _posix.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            _posix.write(descriptor, entry.encode())
            os.replace(path + ".tmp", path + ".json")
        finally:
            _posix.close(descriptor)
        self.listener = listener.detach()
        self._inode = os.fstat(self.listener).st_ino

    def is_awaited(self) -> bool:
        """Whether a script waits for processes of the application, or of this tree of them (core/discovery/doorbell.py)."""
        start = self.app + "."
        bells = [name[len(start) : -5] for name in os.listdir(self.folder) if name.startswith(start) and name.endswith(".bell")]
        return any("." not in bell and _is_meant(bell.partition("-")[2]) for bell in bells)

    @property
    def is_in_own_thread(self) -> bool:
        """Whether the calling thread is the one that listens."""
        return self._native == get_native_id()

    @property
    def is_waiting(self) -> bool:
        """Whether the agent is still to come."""
        return self.state == _WAITING

    def end(self) -> None:
        """Leave the process as if it had been started without this."""
        self._end_thread(_PATIENCE)
        self.withdraw()
        self.state = _OVER
        self._leave_imports()

    def withdraw(self) -> None:
        """Listen no more."""
        self._at_exit()
        if _is_same(self.listener, self._inode):
            _posix.close(self.listener)
        self.listener = -1

    def _at_exit(self) -> None:
        """Nobody is to look for a process that has ended. The agent sees to that itself."""
        if self.state == _OVER or self.listener < 0 or self.pid != os.getpid():
            return
        for end in (".json", ".sock"):
            try:
                os.unlink("%s/%s.%d%s" % (self.folder, self.app, self.pid, end))
            except OSError:
                pass  # whoever looks removes it

    # the thread ----------------------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        import select

        signals: Any = __import__("_signal")  # below `signal`, which makes enums
        mask = signals.pthread_sigmask
        try:
            read, self._wake = _posix.pipe()
        except OSError:
            return  # no descriptors: as with no room for a thread
        self._pipe = os.fstat(read).st_ino
        self._over = allocate_lock()
        self._over.acquire()
        # As `core/node/threads.py`: a small stack will not do, a thread inherits the mask, and a handler may raise out of any change of it.
        faults = {getattr(signals, name, 0) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")}
        added = set(signals.valid_signals()) - faults - mask(signals.SIG_BLOCK, ())
        usual = stack_size(_STACK)  # with no size it would be the default from then on
        try:
            try:
                mask(signals.SIG_BLOCK, added)
                start_new_thread(self._wait, (select.poll(), self._over, self.listener, read, self._pipe))
            finally:
                stack_size(usual)
                mask(signals.SIG_UNBLOCK, added)
        except RuntimeError:
            # No room for a thread. A connection finds nobody until a target is imported.
            self._over.release()
            _posix.close(read)

    def _wait(self, poll: Any, over: Any, listener: int, read: int, pipe: int) -> None:
        """Until somebody connects, or it is to end. It closes its end of the pipe itself: it may get to poll long after it is to end, and
        would wait for whatever had the number by then.
        """
        self._native = get_native_id()
        try:
            poll.register(read, 1)
            while self.state == _WAITING:
                poll.register(listener, 1)
                ready = dict(poll.poll())
                # 1 is POLLIN. Anything else means that the application has closed the descriptors.
                if read in ready or ready.get(listener) != 1:
                    break
                self.load()
                # Where that is put off, whoever has connected waits meanwhile.
                poll.unregister(listener)
                if poll.poll(_AGAIN):
                    break
        finally:
            if _is_same(read, pipe):
                _posix.close(read)
            over.release()

    def _end_thread(self, patience: float) -> None:
        """Have the thread end, and with any patience be gone as the kernel sees it: `os.fork` warns of a second thread."""
        wake, self._wake = self._wake, -1
        if _is_same(wake, self._pipe):
            _posix.close(wake)
        if patience:
            self._await_gone(patience)

    def _await_gone(self, patience: float) -> None:
        """Wait until the kernel knows of the thread no more, which has nothing more to do."""
        over = self._over
        if over is None or self.is_in_own_thread or not over.acquire(True, patience):
            return
        over.release()
        native, tries = self._native, int(patience / 0.0001)
        while tries and os.access("/proc/self/task/%d" % native, os.F_OK):
            sleep(0.0001)
            tries -= 1
        if self._over is over:
            self._over, self._native = None, 0

    # forks ---------------------------------------------------------------------------------------------------------------

    def _await_loading(self, patience: float = _LOADING_PATIENCE) -> None:
        """A child would have modules that are never finished."""
        if self.state == _LOADING and self.loader != get_ident():
            had_pools = _POOLS in sys.modules
            if self._done.acquire(True, patience):
                self._done.release()
            _take_late(had_pools)
        if self.state != _OVER:
            return
        # The one that has loaded the agent says so a moment before it is gone.
        self._await_gone(_PATIENCE)
        control = sys.modules.get("xpc_agent.life.control")
        if control is not None:
            # What it has registered meanwhile is not called for this fork any more.
            control.before_late_fork()

    def _before_fork(self) -> None:
        late: Any = sys.modules.get("xpc_agent.life.fork_return")
        if hasattr(late, "catch_up"):
            late.catch_up()
        with self._gate:
            self._forks += 1
            committed = self._committed
        if not committed:
            had_pools = _POOLS in sys.modules
            self._end_thread(_PATIENCE)
            _take_late(had_pools)
        else:
            # Where that was in the middle of this very fork, the loading may wait for a lock that the fork holds.
            self._await_loading(_PATIENCE)
            if self.state == _WAITING:
                self._end_thread(_PATIENCE)
        # What is registered after this function is asked before it. So where this thread does not have it, the fork began without it.
        lock = None if self._had_logging else _lock_of("logging", "_lock", "LogRecord")
        if lock is not None and not lock._is_owned():
            lock.acquire()

    def _after_fork(self) -> None:
        with self._gate:
            self._forks -= 1
        # Only these ask: to find a second file costs each process as much as half of what is in here.
        if (3, 13) <= sys.version_info < (3, 14, 1) and self.is_waiting and self.listener >= 0:
            from xpc_agent.life.fork_return import when_returned

            when_returned(sys._getframe().f_back, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        if not self._forks and self.state == _WAITING and self.listener >= 0 and self._wake < 0:
            self._start_thread()

    def _in_child(self) -> None:
        self._end_thread(0.0)
        self._over, self._native = None, 0
        if self.state == _OVER:
            return
        self.main = get_ident()
        self._calm()
        if self.state == _LOADING and self.loader != self.main:
            _forget_imports(self.loader)
        if self.state == _LOADING and self._committed:
            # By a thread that is not here: what it was importing will never be finished.
            self.state = _OVER
            self._leave_imports()
            return
        self.state = _WAITING
        if self.listener >= 0:
            _posix.close(self.listener)
            self.listener = -1
        self._once, self._done, self._gate = allocate_lock(), allocate_lock(), allocate_lock()
        self._forks, self._committed = 0, False
        if not any(map(self.is_on_demand, list(sys.modules))):
            return
        try:
            self.listen()
            self._start_thread()
        except Exception:
            self.load()
            return
        # A child of multiprocessing leaves by `os._exit`, without atexit.
        register = getattr(sys.modules.get("multiprocessing.util"), "register_after_fork", None)
        if register is not None:
            register(self, Stub._finalize_later)

    def _finalize_later(self) -> None:
        sys.modules["multiprocessing.util"].Finalize(self, self._at_exit, exitpriority=0)


def _collector() -> Any:
    """The module `gc`, without the locks of an import."""
    importer: Any = sys.modules["_frozen_importlib"].BuiltinImporter
    spec = importer.find_spec("gc")
    found = importer.create_module(spec)
    importer.exec_module(found)
    # Up to Python 3.9 it is the one that the application gets.
    found.__spec__, found.__loader__ = spec, importer
    return found


def _lock_of(module: str, name: str, later: str) -> Any:
    """What a module of the standard library takes before a fork and lets go of after it; None until it has told Python so (`later`)."""
    found = sys.modules.get(module)
    return getattr(found, name, None) if hasattr(found, later) else None


def _take_late(had_pools: bool) -> None:
    """For a fork that has waited: a module that was imported meanwhile lets go after it of what it was not asked to take before it."""
    lock = None if had_pools else _lock_of(_POOLS, "_global_shutdown_lock", "_WorkItem")
    if lock is not None:
        lock.acquire()


def _forget_imports(thread: int) -> None:
    """In a forked child: what a thread was importing that is not here is imported anew by whoever wants it."""
    frozen: Any = sys.modules["_frozen_importlib"]
    for name, reference in getattr(frozen, "_module_locks", {}).copy().items():
        if getattr(reference(), "owner", None) == thread:
            frozen._module_locks.pop(name, None)
            if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
                del sys.modules[name]


def _prepare() -> None:
    """Import what comes first. ImportError where a file of the application stands in the way of what the agent would import."""
    with open(_HERE + "/needed.py", "rb") as file:
        text = file.read()
    needed: dict[str, Any] = {"__name__": "xpc_agent.bootstrap.needed"}
    exec(text, needed)  # noqa: S102 - the agent's own
    found = needed["in_the_way"]()
    if found:
        raise ImportError(f"{found} would be imported in place of the standard library's module")
    needed["import_looked_up"](get_ident, sleep)


def _check_room() -> None:
    """OSError where few descriptors are left: Python would do without parts of the standard library that it cannot open, for good.

    None is taken to find out: it may be the one that the application opens next.
    """
    most = os.sysconf("SC_OPEN_MAX")
    free = number = 0
    while free < _ROOM and number < most:
        try:
            _posix.get_inheritable(number)
        except OSError:
            free += 1
        number += 1
    if free < _ROOM and most >= 0:
        import errno

        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _is_passing(error: BaseException) -> bool:
    """Whether what has failed may work a moment later: there were no descriptors, or no memory."""
    import errno

    passing = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in passing)


def _say(text: str) -> None:
    try:
        sys.stderr.write("xpc-instrument: %s\n" % text)
    except (AttributeError, TypeError, ValueError, OSError, RuntimeError):
        pass  # the application has closed it, or has none, or another: there is nowhere to say that


def _is_same(descriptor: int, inode: int) -> bool:
    """Whether it is what we have opened: the application may have closed all descriptors, as daemons do, and have the number by now."""
    try:
        return descriptor >= 0 and os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


def _of_process() -> tuple[str, str]:
    """When the process started and where its stack starts, of /proc/self/stat, as JSON; null where there is none, or it is hidden."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return "null", "null"
        descriptor = _posix.open("/proc/self/stat", os.O_RDONLY)
        try:
            text = _posix.read(descriptor, 4096)
        finally:
            _posix.close(descriptor)
    except OSError:
        return "null", "null"
    # The fields 22 and 28 of proc(5), less the first two.
    fields = text.rpartition(b")")[2].split()
    started, stack = fields[19].decode(), fields[25].decode()
    return started if started != "0" else "null", stack if stack != "0" else "null"


def _is_meant(root: str) -> bool:
    """Whether a bell that follows the tree with that root, if any, is to be rung by this process."""
    if root in ("", os.environ.get(_MAIN, "0")):
        return True
    try:
        os.kill(int(root), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_main_interpreter() -> bool:
    import _thread

    known = getattr(_thread, "_is_main_interpreter", None)
    if known is not None:
        return bool(known())
    # Before 3.12. The module that says it is a library, which takes longer to load than all else that a process without targets needs;
    # who may handle signals is asked before the number is looked at.
    signals: Any = __import__("_signal")
    try:
        signals.signal(0, 0)
    except ValueError as error:
        if "out of range" in str(error):
            return True
    try:
        interpreters: Any = __import__("_xxsubinterpreters")
    except ImportError:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


def _has_agent() -> bool:
    """Whether this Python has the package: another one that the application starts may not."""
    if os.path.dirname(os.path.dirname(_HERE)) in sys.path:
        return True
    return any(finder.find_spec("xpc_agent", None) is not None for finder in sys.meta_path if hasattr(finder, "find_spec"))


def _start() -> None:
    packed = os.environ.get("XPC_INSTRUMENT_CONFIG_PACKED")
    if packed is None or os.environ.get("XPC_INSTRUMENT_DISABLE", "") not in ("", "0") or not _is_main_interpreter():
        return
    if not _has_agent():
        _say("the agent cannot be imported (no module named 'xpc_agent'); this process is not instrumented")
        return
    text = os.environ.get(_VARIABLE, "")
    main = os.environ.get(_MAIN) == str(os.getpid())
    where = "|".join(os.environ.get(name, "") for name in _FOLDERS)
    if text.startswith("where %s\n" % where.replace("\n", " ")):
        stub = Stub(text)
        modules: Any = sys.modules
        modules["_xpc_instrument_stub"] = stub  # where the agent finds it
        stub.begin(main)
        return
    # No variable for the stub: a fixed address, a config with very many modules, or another runtime directory than when it was made.
    from xpc_agent.life.autostart import autostart

    autostart(None)


def _chain() -> None:
    """Run the sitecustomize that this one hides, as if it had been found first."""
    external: Any = sys.modules["_frozen_importlib_external"]
    path = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) != _HERE]
    spec = external.PathFinder.find_spec("sitecustomize", path)
    if spec is None or spec.loader is None:
        return
    frozen: Any = sys.modules["_frozen_importlib"]
    module = frozen.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _hold() -> None:
    """Wait until the verb that has started this program has its hooks in place, or is gone; not for long."""
    told = os.environ.pop(_HOLD, "").split()
    if len(told) != 2 or not _is_same(int(told[0]), int(told[1])):
        return
    import select

    held = int(told[0])
    try:
        poll = select.poll()
        poll.register(held, 1)
        poll.poll(_HELD)
    finally:
        _posix.close(held)
    control = sys.modules.get("xpc_agent.life.control")
    if control is not None:
        control.begin_program()


_start()
_chain()
_hold()
