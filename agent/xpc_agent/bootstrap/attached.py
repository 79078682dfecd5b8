"""Starts the agent in a process that was started without it, or stops it: run as text, by `gate.py` and with its names, while forks wait.

Nothing of ours can be imported before it has run. In `folder` lie `job.json`, what is to be done, `needed.py`, and `report`, a pipe that
whoever attaches reads.

Rules:
- Nothing is raised, nothing printed, and nothing of the application's changed until it is clear that the agent may start.
- `sys.path` stays as it is: a finder behind all others knows the agent's packages and what they need, and is gone when the agent is.
- If nobody reads the report, whoever attached has given up or died, and the agent stops.
- Everything here may run twice, and at any moment of the process's life.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from xpc_agent.bootstrap.gate import _open, _original, _posix, get_ident, get_native_id, sleep
else:
    Any = object

# How long a thread of the application that computes may keep the others waiting meanwhile, in seconds. Imports here let go of the global
# interpreter lock a thousand times, and would take as many times the usual 5 ms.
_SWITCHING = 0.0002
# For how long the application may collect garbage between two of the parts in which the agent is imported, in seconds.
_BREATH = 0.0005
_PARTS = (
    "_queue",
    "xpc_instrument.core.config.packed",
    "xpc_instrument.core.node.host",
    "xpc_agent.points.table",
    "xpc_agent.service.registrations",
)


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
        # Now: a finder is asked while the lock of all imports is held, and an audit hook may wait for one of the application's.
        self._machinery: Any = __import__("importlib.machinery").machinery

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        machinery = self._machinery
        if name in self._sources:
            spec = machinery.ModuleSpec(name, self._loader, origin=self._sources[name][2], is_package=self._sources[name][0])
            # It has a `__file__`, though nobody can open that here.
            spec.has_location = True
            spec.cached = None
            return spec
        if path is None and name in self._folders:
            return machinery.PathFinder.find_spec(name, [self._folders[name]])
        return None


def _breathe(gate: Any) -> None:
    """Have the application collect what is due, while no lock of an import is held."""
    gate.have_collections()
    sleep(_BREATH)
    gate.put_collections_off()


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


def _trace(error: BaseException) -> str:
    """Where it was raised, without the lines themselves: reading these may fail for the same reason."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"  File {code.co_filename!r}, line {trace.tb_lineno}, in {code.co_name}")
        trace = trace.tb_next
    return "\n".join(lines)


def _raised_in(error: BaseException) -> str:
    trace: Any = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_code.co_filename)


def _unseen(error: BaseException) -> str:
    """Why nothing can be imported here, if that is what an error says; else ""."""
    # The system of imports does not find what it has just put there, or a module is one that was left half imported then.
    lost = isinstance(error, KeyError) and _raised_in(error) == "<frozen importlib._bootstrap>"
    if lost or (isinstance(error, ImportError) and str(error).startswith("cannot import name")):
        return (
            f"the agent's imports fail in it ({type(error).__name__}: {error}), as where sys.modules is put back to what it was meanwhile, "
            "by mock.patch.dict; try again when no such patch is in force, and if that does not help after starting it anew"
        )
    name = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if not name or name in ("xpc_agent", "xpc_instrument", "wrapt", "cloudpickle"):
        return ""
    return (
        f"it cannot import what the agent needs of the standard library ({error}), as where Python's own files are out of its sight since "
        "a chroot, or have been removed; let it see them under the paths in its sys.path, such as by mount --bind"
    )


# The names of needed.py.
_needed: Any = {"__name__": "xpc_agent.bootstrap.needed"}


def _prepare(folder: str) -> str:
    """Import what is needed before anything else; why nothing may be imported here, or "" if it may."""
    try:
        with _open(folder + "/needed.py", "rb") as file:
            text = file.read()
        exec(text, _needed)  # noqa: S102 - the agent's own
        found = _needed["in_the_way"]()
        if found:
            return f"{found} would be imported in place of the standard library's module, which the agent needs"
        _needed["import_looked_up"](get_ident, sleep)
        __import__("json")
    except Exception as error:
        return _unseen(error) or f"the imports that the agent needs fail in it ({type(error).__name__}: {error})"
    return ""


def _refusing(why: str, thread: int) -> bytes:
    """The report of a refusal, without `json`."""
    quoted = ascii(why)[1:-1].replace("\\", "\\\\").replace('"', '\\"')
    return ('{"refusal": "%s", "thread": %d}\n' % (quoted, thread)).encode()


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
        with _open(folder + "/sources.json", encoding="utf-8") as file:
            sources = __import__("json").load(file)
    finder = _Finder(job["folders"], sources)
    # After Python's own; what the application may have appended for one import stays last.
    last = sys.meta_path[-1] if sys.meta_path else None
    sys.meta_path.insert(len(sys.meta_path) - (last is not None and not _needed["is_pythons_own"](last)), finder)
    gives_up = _poller(pipe)
    entered = False
    try:
        if "threading" not in sys.modules:
            from xpc_agent.life.interpreter import import_threading

            import_threading(job["main"])
        gate.come_first()
        for part in _PARTS:
            __import__(part)
            if gives_up.poll(0):
                return
            _breathe(gate)
        from xpc_agent.life.attached import enter

        if gives_up.poll(0):
            return
        gate.have_collections()
        entered = enter(job, finder, report)
        report["began"] = entered
    finally:
        if not entered:
            _needed["take_finder"](finder)


def _poller(pipe: int) -> Any:
    """What has something to say when nobody would read what is written into a pipe."""
    poller = _original("select", "poll")()
    poller.register(pipe, 0)
    return poller


def run(gate: Any, folder: str) -> None:
    """Do what the job says, and report; forks wait."""
    # Whoever attaches reads it; if nobody does, there is nothing to do.
    pipe = _posix.open(folder + "/report", _posix.O_WRONLY | _posix.O_NONBLOCK | _posix.O_CLOEXEC)
    report: Any = {"thread": get_native_id(), "pid": _posix.getpid()}
    usual = sys.getswitchinterval()
    try:
        refusal = _prepare(folder)
        if refusal:
            _posix.write(pipe, _refusing(refusal, report["thread"]))
            return
        _breathe(gate)
        if usual > _SWITCHING:
            sys.setswitchinterval(_SWITCHING)
        json: Any = __import__("json")
        try:
            with _open(folder + "/job.json", encoding="utf-8") as file:
                job = json.load(file)
            _enter(gate, job, folder, report, pipe)
        except BaseException as error:
            report["refusal"] = _unseen(error)
            report["error"] = f"{type(error).__name__}: {error}"
            # Of what is foreseen, such as a folder that may not be used or a full disk, the words say it all.
            if type(error).__module__.startswith("xpc_instrument."):
                report["error"] = str(error)
            elif not isinstance(error, OSError):
                report["traceback"] = _trace(error)[-2000:]
        try:
            _posix.write(pipe, json.dumps(report).encode()[:4000] + b"\n")
        except OSError:
            if report.get("began"):
                sys.modules["xpc_agent.life.attached"].leave()
    finally:
        # Unless the application has set it meanwhile.
        if sys.getswitchinterval() <= _SWITCHING < usual:
            sys.setswitchinterval(usual)
        _posix.close(pipe)
