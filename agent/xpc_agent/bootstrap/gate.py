"""What is run first in a process that is attached to, as text: forks of its other threads wait from then on until the agent has begun.

`xpc-instrument attach` has it run in a thread of its own. It is short, since a fork that comes before it has begun finds a second thread in
the process: from Python 3.12 on that is a warning, and with warnings as errors Python 3.15 raises it once the child is made. The rest,
beside it in a file, is run once forks wait. `path` is where this was read from.

Rules:
- Nothing is raised, nothing printed, and nothing imported that may not be there, not even `__future__`, before the gate is closed: a child
  would have the locks of those imports, held by nobody.
- What is called at a fork is called last registered first. `logging` takes its lock then, which the imports here need too: so whoever has
  it goes on, and what waits while `logging` is imported takes the lock in its stead, since it is let go of for each fork that comes to its
  end.
- Everything here may run twice, and at any moment of the process's life.
"""

import sys

__name__ = "xpc_agent.bootstrap.attached"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    path = ""

    def run(gate: Any, folder: str) -> None:
        """Of the rest."""
else:
    Any = object

_posix: Any = sys.modules["posix"]
# Whatever the application has put into `builtins`.
_open: Any = __import__("_io").open


def _original(module: str, name: str) -> Any:
    """A name of the standard library as it was before gevent or eventlet patched it (`core/unpatched.py`).

    What they have in its place makes a hub for the thread that calls it, with two descriptors that stay when the thread has ended.
    """
    gevent: Any = sys.modules.get("gevent.monkey")
    if hasattr(gevent, "get_original"):
        return gevent.get_original(module, name)
    eventlet: Any = sys.modules.get("eventlet.patcher")
    group = module.lstrip("_")
    if hasattr(eventlet, "is_monkey_patched") and eventlet.is_monkey_patched(group):
        return getattr(eventlet.original(module), name)
    return getattr(__import__(module), name)


allocate_lock: Any = _original("_thread", "allocate_lock")
get_ident: Any = _original("_thread", "get_ident")
get_native_id: Any = _original("_thread", "get_native_id")
sleep: Any = _original("time", "sleep")

# Where the next one finds what this one has left for good.
_GATE = "_xpc_instrument_attaching"
# How long a fork waits for the imports here, in seconds: they take a tenth of a second of processor time. In a process with many busy
# threads they may take longer; then the child forgets what is half imported. Where the thread that forks is the only one, nothing but a
# crowded machine makes them longer, and a fork beside ours warns.
_PATIENCE, _PATIENCE_OF_ONE = 1.0, 5.0
# Beside `logging` the one module of the standard library that takes a lock for the time of a fork.
_POOLS = "concurrent.futures.thread"


class _Gate:
    """What forks wait at. One for the life of the process, since what is called at a fork cannot be taken back."""

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.forks = 0
        # The thread that imports; 0 if none does. Importlib knows it by the number that gevent gives it, where that has patched.
        self.holder = self.native = self.importer = 0
        # The threads whose forks have waited for as long as they do, and go on.
        self.tired: Any = set()
        # What has garbage collected again that was put off; nothing is.
        self.enable: Any = int
        # Whether it is asked before `logging`, and whether that may have told Python of itself before this.
        self.is_first = _lock_of_logging() is not None
        self.had_logging = "logging" in sys.modules
        _posix.register_at_fork(before=self.before, after_in_parent=self.in_parent, after_in_child=self.in_child)

    def wait(self) -> None:
        if not self.native or get_ident() in self.tired or _has_lock_of_logging():
            return
        had_pools = _POOLS in sys.modules
        if self.lock.acquire(True, _PATIENCE if _are_several() else _PATIENCE_OF_ONE):
            self.lock.release()
            self.await_gone()
        else:
            self.tired.add(get_ident())
        # The agent that has begun meanwhile is to pause for this fork, too.
        control: Any = sys.modules.get("xpc_agent.life.control")
        if hasattr(control, "before_late_fork"):
            control.before_late_fork()
        pools = None if had_pools else _lock_of(_POOLS, "_global_shutdown_lock", "_WorkItem")
        if pools is not None:
            pools.acquire()

    def await_gone(self) -> None:
        """From Python 3.12 on a fork warns of a second thread, and this one is about to end."""
        native, tries = self.native, 1000
        while tries and native and native != get_native_id() and _posix.access("/proc/self/task/%d" % native, _posix.F_OK):
            sleep(0.0005)
            tries -= 1
        if self.native == native and not self.holder:
            self.native = 0

    def before(self) -> None:
        self.wait()
        # What is registered after this function is asked before it. So where this thread does not have it, the fork began without it.
        lock = None if self.had_logging else _lock_of_logging()
        if lock is not None and not _has_lock_of_logging():
            lock.acquire()
        self.forks += 1

    def in_parent(self) -> None:
        self.forks -= 1
        self.tired.discard(get_ident())

    def in_child(self) -> None:
        if self.holder:
            _forget_imports(self.importer)
        self.have_collections()
        self.lock, self.forks, self.holder, self.native = allocate_lock(), 0, 0, 0
        self.tired = set()

    def close(self) -> None:
        self.lock.acquire()
        self.holder, self.native, self.importer = get_ident(), get_native_id(), sys.modules["_thread"].get_ident()
        # One that was under way before has not waited.
        for _ in range(1000):
            if self.forks <= 0:
                break
            sleep(0.001)

    def put_collections_off(self) -> None:
        """Have none run here, with code of the application that waits for one which imports (collecting.py)."""
        gc: Any = sys.modules.get("gc") or _collector()
        if gc.isenabled():
            self.enable = gc.enable
            gc.disable()

    def have_collections(self) -> None:
        self.enable()
        self.enable = int

    def come_first(self) -> None:
        """What is registered last comes first at a fork."""
        if not self.is_first:
            import logging  # noqa: F401

            _posix.register_at_fork(before=self.wait)
            self.is_first = True

    def open(self) -> None:
        self.holder = 0
        self.lock.release()


def _are_several() -> bool:
    """Whether there are more threads than the calling one and ours."""
    try:
        return len(_posix.listdir("/proc/self/task")) > 2
    except OSError:
        return True


def _lock_of(module: str, name: str, later: str) -> Any:
    """What a module of the standard library takes before a fork and lets go of after it; None until it has told Python so (`later`)."""
    found: Any = sys.modules.get(module)
    return getattr(found, name, None) if hasattr(found, later) else None


def _lock_of_logging() -> Any:
    return _lock_of("logging", "_lock", "LogRecord")


def _has_lock_of_logging() -> bool:
    """Whether this thread has it."""
    owned: Any = getattr(_lock_of_logging(), "_is_owned", None)
    return owned is not None and bool(owned())


def _forget_imports(thread: int) -> None:
    """In a forked child: what a thread was importing that is not here is imported anew by whoever wants it."""
    locks: Any = getattr(sys.modules["_frozen_importlib"], "_module_locks", {})
    for name, reference in locks.copy().items():
        if getattr(reference(), "owner", None) == thread:
            locks.pop(name, None)
            if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
                del sys.modules[name]


def _block_signals() -> None:
    signals: Any = __import__("_signal")
    faults = {getattr(signals, name, 0) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")}
    signals.pthread_sigmask(signals.SIG_BLOCK, set(signals.valid_signals()) - faults)


def _gate() -> Any:
    modules: Any = sys.modules
    gate: Any = modules.get(_GATE)
    if gate is None:
        gate = modules[_GATE] = _Gate()
    return gate


def _collector() -> Any:
    """The module `gc`, without the locks of an import."""
    importer: Any = sys.modules["_frozen_importlib"].BuiltinImporter
    spec = importer.find_spec("gc")
    found = importer.create_module(spec)
    importer.exec_module(found)
    # Up to Python 3.9 it is the one that the application gets.
    found.__spec__, found.__loader__ = spec, importer
    return found


def _forget_thread() -> None:
    """`threading` makes a thread of its own of any that asks for itself, and keeps it."""
    threading: Any = sys.modules.get("threading")
    active: Any = getattr(threading, "_active", {})
    for ident in {get_ident(), sys.modules["_thread"].get_ident()}:
        if type(active.get(ident)).__name__ == "_DummyThread":
            del active[ident]


def _remove(folder: str) -> None:
    for name in ("job.json", "sources.json", "start.py", "attached.py", "remote.py", "needed.py", "report"):
        try:
            _posix.unlink(f"{folder}/{name}")
        except OSError:
            pass  # whoever attached was faster
    try:
        _posix.rmdir(folder)
    except OSError:
        pass


def _go(path: str) -> None:
    folder = path.rpartition("/")[0]
    _block_signals()
    gate = _gate()
    # Before anything is imported.
    gate.close()
    try:
        # Whoever attaches holds the main thread back for so long.
        _posix.unlink(folder + "/start.py")
    except OSError:
        pass
    try:
        gate.put_collections_off()
        with _open(folder + "/attached.py", "rb") as file:
            text = file.read()
        # It has the names of this one, and `run`.
        exec(text, globals())  # noqa: S102 - the agent's own
        run(gate, folder)
    finally:
        gate.have_collections()
        gate.open()
        _forget_thread()
        _remove(folder)


_go(path)
