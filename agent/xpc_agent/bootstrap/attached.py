"""Starts the agent in a process that was started without it: `xpc-instrument attach` has this run there, in a thread of its own.

It is text that is executed, not a module: nothing of ours can be imported before it has run. `path` is where it was read from; beside it
lie `job.json`, what is to be done, `needed.py`, and `report`, a pipe that whoever attaches reads.

Rules:
- Nothing is raised, nothing printed, and nothing of the application's changed until it is clear that the agent may start.
- `sys.path` stays as it is: a finder behind all others knows the agent's packages and what they need, and is gone when the agent is.
- A fork waits until the modules are whole that are imported here: a child would have the locks of those imports, held by nobody. So nothing
  is imported before the gate is closed that may not be there, not even `__future__`.
- If nobody reads the report, whoever attached has given up or died, and the agent stops.
- Everything here may run twice, and at any moment of the process's life.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    path = ""
else:
    Any = object

_posix: Any = sys.modules["posix"]


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
# How long a thread of the application that computes may keep the others waiting meanwhile, in seconds. Imports here let go of the global
# interpreter lock a thousand times, and would take as many times the usual 5 ms.
_SWITCHING = 0.0002
# How long a fork waits for the imports here, in seconds: they take a tenth of a second of processor time. In a process with many busy
# threads they may take longer; then the child forgets what is half imported.
_PATIENCE = 1.0


class _Gate:
    """What forks wait at. One for the life of the process, since what is called at a fork cannot be taken back."""

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.forks = 0
        # The thread that imports; 0 if none does. Importlib knows it by the number that gevent gives it, where that has patched.
        self.holder = self.native = self.importer = 0
        # The threads whose forks have waited for as long as they do, and go on.
        self.tired: Any = set()
        self.watch: Any = None
        # Whether it is asked before `logging`, which takes a lock for the time of a fork that the imports here need too. Until then nobody
        # waits: a fork that did while `logging` is imported would let go of a lock that it has not taken.
        self.is_first = "logging" in sys.modules
        self.is_open = not self.is_first
        _posix.register_at_fork(before=self.before, after_in_parent=self.in_parent, after_in_child=self.in_child)

    def wait(self) -> None:
        if self.is_open or not self.native or get_ident() in self.tired:
            return
        if self.lock.acquire(True, _PATIENCE):
            self.lock.release()
            self.await_gone()
        else:
            self.tired.add(get_ident())
        # The agent that has begun meanwhile is to pause for this fork, too.
        control: Any = sys.modules.get("xpc_agent.life.control")
        if hasattr(control, "before_late_fork"):
            control.before_late_fork()

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
        self.forks += 1

    def in_parent(self) -> None:
        self.forks -= 1
        self.tired.discard(get_ident())

    def in_child(self) -> None:
        if self.holder:
            _forget_imports(self.importer)
        self.unwatch()
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

    def unwatch(self) -> None:
        """Whoever imports is watched no more; in a forked child a later thread may have the number of its."""
        watch, self.watch = self.watch, None
        if watch is not None:
            sys.meta_path[:] = [one for one in sys.meta_path if one is not watch]

    def come_first(self) -> None:
        """What is registered last comes first at a fork."""
        if not self.is_first:
            self.is_first = True
            import logging  # noqa: F401

            _posix.register_at_fork(before=self.wait)
        self.is_open = False

    def open(self) -> None:
        self.holder = 0
        self.lock.release()


def _forget_imports(thread: int) -> None:
    """In a forked child: what a thread was importing that is not here is imported anew by whoever wants it."""
    locks: Any = getattr(sys.modules["_frozen_importlib"], "_module_locks", {})
    for name, reference in list(locks.items()):
        if getattr(reference(), "owner", None) == thread:
            locks.pop(name, None)
            if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
                del sys.modules[name]


class _Sources:
    """Loads modules from text that is in memory, where the application cannot see the files."""

    def __init__(self, sources: Any) -> None:
        self._sources = sources

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        name = module.__spec__.name
        exec(compile(self.get_source(name), module.__spec__.origin, "exec", dont_inherit=True), module.__dict__)  # noqa: S102

    def get_source(self, name: str) -> Any:
        return self._sources[name][1]

    def is_package(self, name: str) -> bool:
        return bool(self._sources[name][0])


class _Finder:
    """Finds the agent's own packages, and what they need, unless the application has them; nothing else becomes importable."""

    def __init__(self, folders: Any, sources: Any) -> None:
        self._folders = folders
        self._sources = sources
        self._loader = _Sources(sources)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        machinery = __import__("importlib.machinery").machinery
        if name in self._sources:
            spec = machinery.ModuleSpec(name, self._loader, origin=self._sources[name][2], is_package=self._sources[name][0])
            # It has a `__file__`, though nobody can open that here.
            spec.has_location = True
            spec.cached = None
            return spec
        if path is None and name in self._folders:
            return machinery.PathFinder.find_spec(name, [self._folders[name]])
        return None


class _Watch:
    """Stands before all finders while the agent is imported: that ends where whoever attached has given up.

    With the next module of ours, not in the middle of one of the standard library, which would make do without a part of its own.
    """

    def __init__(self, pipe: int) -> None:
        self._thread = get_ident()
        self._poller = _poller(pipe)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if get_ident() == self._thread and name.startswith(("xpc_agent", "xpc_instrument")) and self._poller.poll(0):
            raise RuntimeError("whoever attached has given up")


def _refusal() -> str:
    """Why the agent is not to start here; "" if it may."""
    if sys.is_finalizing():
        return "it is ending"
    if _posix.environ.get(b"XPC_INSTRUMENT_DISABLE", b"") not in (b"", b"0"):
        return "its environment has XPC_INSTRUMENT_DISABLE set"
    os = sys.modules.get("os")
    if os is not None and os.environ.get("XPC_INSTRUMENT_DISABLE", "") not in ("", "0"):
        return "its environment has XPC_INSTRUMENT_DISABLE set"
    enabled: Any = getattr(sys, "is_remote_debug_enabled", None)
    if enabled is not None and not enabled():
        return "remote debugging is disabled in it (sys.is_remote_debug_enabled() is false)"
    return ""


def _other_version(wanted: str) -> str:
    """The version of xpc-instrument that would be imported here, if it is another one. Nothing of it is imported.

    Where that cannot be told it is imported, and says so itself.
    """
    imported: Any = sys.modules.get("xpc_instrument.core.version")
    if imported is not None:
        return "" if imported.__version__ == wanted else str(imported.__version__)
    try:
        # As an import would find it, in whatever way it was installed.
        spec: Any = __import__("importlib.util").util.find_spec("xpc_instrument")
        if spec is None:
            return ""
        text = spec.loader.get_data(spec.origin[: -len("__init__.py")] + "core/version.py").decode()
        found = text.split("__version__ = ")[1].split()[0].strip("\"'")
    except Exception:
        return ""
    return "" if found == wanted else found


def _leave(report: Any) -> None:
    """Take the agent out again, for one who may not talk to it: root, of another user's process."""
    control: Any = sys.modules.get("xpc_agent.life.control")
    if control is None or control.current() is None:
        report["refusal"] = "it has no agent"
        return
    report["app"] = control.current().config.app
    control.stop()


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


def _in_the_way(folder: str) -> str:
    """Why nothing may be imported here, as it stands between the quotes of JSON; "" if it may."""
    try:
        with open(folder + "/needed.py", "rb") as file:
            text = file.read()
        needed: Any = {"__name__": "xpc_agent.bootstrap.needed"}
        exec(text, needed)  # noqa: S102 - the agent's own
        found = needed["in_the_way"]()
        why = f"{found} would be imported in place of the standard library's module, which the agent needs" if found else ""
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    return ascii(why)[1:-1].replace("\\", "\\\\").replace('"', '\\"')


def _enter(gate: Any, job: Any, folder: str, report: Any, pipe: int) -> None:
    if job.get("leave"):
        _leave(report)
        return
    why = _refusal()
    version = "" if why else _other_version(job["version"])
    if version:
        why = f"it has another version of xpc-instrument installed, {version}, and this is {job['version']}: use that one"
    if why:
        report["refusal"] = why
        return
    sources = {}
    if job["sources"]:
        with open(folder + "/sources.json", encoding="utf-8") as file:
            sources = __import__("json").load(file)
    finder = _Finder(job["folders"], sources)
    sys.meta_path.append(finder)
    gate.watch = _Watch(pipe)
    sys.meta_path.insert(0, gate.watch)
    entered = False
    try:
        if "threading" not in sys.modules:
            from xpc_agent.life.interpreter import import_threading

            import_threading(job["main"])
        gate.come_first()
        from xpc_agent.life.attached import enter

        gate.unwatch()
        if _poller(pipe).poll(0):
            return
        entered = enter(job, finder, report)
        report["began"] = entered
    finally:
        gate.unwatch()
        if not entered:
            sys.meta_path[:] = [one for one in sys.meta_path if one is not finder]


def _poller(pipe: int) -> Any:
    """What has something to say when nobody would read what is written into a pipe."""
    poller = _original("select", "poll")()
    poller.register(pipe, 0)
    return poller


def _forget_thread() -> None:
    """`threading` makes a thread of its own of any that asks for itself, and keeps it."""
    threading: Any = sys.modules.get("threading")
    active: Any = getattr(threading, "_active", {})
    for ident in {get_ident(), sys.modules["_thread"].get_ident()}:
        if type(active.get(ident)).__name__ == "_DummyThread":
            del active[ident]


def _remove(folder: str) -> None:
    for name in ("job.json", "sources.json", "start.py", "remote.py", "needed.py", "report"):
        try:
            _posix.unlink(f"{folder}/{name}")
        except OSError:
            pass  # whoever attached was faster
    try:
        _posix.rmdir(folder)
    except OSError:
        pass


def _run(path: str) -> None:
    folder = path.rpartition("/")[0]
    _block_signals()
    # Whoever attaches reads it; if nobody does, there is nothing to do.
    pipe = _posix.open(folder + "/report", _posix.O_WRONLY | _posix.O_NONBLOCK | _posix.O_CLOEXEC)
    report: Any = {"thread": get_native_id(), "pid": _posix.getpid()}
    gate = _gate()
    # Before anything is imported.
    gate.close()
    usual = sys.getswitchinterval()
    if usual > _SWITCHING:
        sys.setswitchinterval(_SWITCHING)
    try:
        refusal = _in_the_way(folder)
        if refusal:
            _posix.write(pipe, ('{"refusal": "%s", "thread": %d}\n' % (refusal, report["thread"])).encode())
            return
        json: Any = __import__("json")
        try:
            with open(folder + "/job.json", encoding="utf-8") as file:
                job = json.load(file)
            _enter(gate, job, folder, report, pipe)
        except BaseException as error:
            report["error"] = f"{type(error).__name__}: {error}"
            # Of what is foreseen, such as a folder that may not be used, the words say it all.
            if not type(error).__module__.startswith("xpc_instrument."):
                report["traceback"] = "".join(__import__("traceback").format_exception(type(error), error, error.__traceback__))[-2000:]
        try:
            _posix.write(pipe, json.dumps(report).encode()[:4000] + b"\n")
        except OSError:
            if report.get("began"):
                sys.modules["xpc_agent.life.attached"].leave()
    finally:
        # Unless the application has set it meanwhile.
        if sys.getswitchinterval() <= _SWITCHING < usual:
            sys.setswitchinterval(usual)
        gate.open()
        _posix.close(pipe)
        _forget_thread()
        _remove(folder)


_run(path)
