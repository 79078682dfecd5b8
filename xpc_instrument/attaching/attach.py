"""`attach`: bring the agent into a process that runs without it."""

from __future__ import annotations

import errno
import json
import marshal
import os
import subprocess
import sys
import time
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Set, Tuple, Union

from ..core.config import file as config_module
from ..core.config.packed import pack
from ..core.config.schema import Config
from ..core.discovery import entry as discovery
from ..core.discovery.folder import ProcessStat, bound_path, pid_namespace, process_stat, runtime_dir
from ..core.model.errors import ApplicationNotFoundError, AttachError, XpcError
from ..core.model.limits import Limits
from ..core.model.record import Record
from ..core.version import __version__
from ..script.connect import connect
from ..script.session import Session
from .examination import RUN, Examination, children, examine
from .injection import Injection, Lock, age, main_ident
from .job import Job, folders, sources

# How long a process may take to answer, in seconds.
TIMEOUT = 10.0
# How long besides, as long as it is importing the agent: its own busy threads hold that up.
_IMPORTING = 50.0
# How long, when it has, until the last thread is out of what lies in its memory.
_UNDOING = 0.5
# A process younger than that may still be loaded, in seconds; and how long it may take to answer before it is tried again.
_STARTING = 1.0
_TRY_AGAIN = 0.5
# What is put into the process: it reads the rest. Its length is fixed (`injection.TEXT_SIZE`), and nothing in it depends on the moment but
# the path. It runs in a namespace of its own, so that no name of the application is looked up or bound.
_LOADER = "try:\n f=__import__('_io').open('{path}','rb')\n s=f.read()\n f.close()\n exec(s,{{'path':f.name}})\nexcept BaseException:pass\n"
# The same by `sys.remote_exec`, which has the main thread run it: no more than a thread is started there, a real one under gevent and
# eventlet.
_STARTER = """exec('''
try:
    import sys, _thread
    def go():
        start = _thread.start_new_thread
        gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
        if hasattr(gevent, "get_original"):
            start = gevent.get_original("_thread", "start_new_thread")
        elif hasattr(eventlet, "is_monkey_patched") and eventlet.is_monkey_patched("thread"):
            start = eventlet.original("_thread").start_new_thread
        with open({path!r}, "rb") as file:
            text = file.read()
        start(exec, (text, {{"path": {path!r}}}))
        # Each look lets it go on. It removes the file when forks wait.
        for _ in range(20000):
            if not sys.modules["posix"].access({path!r}, 0):
                break
    go()
except BaseException:
    pass
''', {{}})
"""
# What is left in its place when the time is over.
_NOTHING = """exec('''
try:
    import os
    os.unlink({path!r})
    os.rmdir({folder!r})
except BaseException:
    pass
''', {{}})
"""


class Attached(Record):
    """A process that has the agent in it now."""

    pid: int
    app: str
    address: str
    folder: str
    """The runtime dir in which it is announced, as it knows that."""

    python: str
    program: str
    modules: int
    """How many are imported in it."""

    seconds: float
    """How long it took."""

    already: bool = False
    """Whether it had the agent before."""

    root: str = ""
    """What it has in common with the processes that it belongs to (`Entry.root`)."""


def attach(
    pid: int,
    *,
    app: Optional[str] = None,
    config: Union[Config, str, os.PathLike[str], None] = None,
    probes: Iterable[str] = (),
    on_demand: Iterable[str] = (),
    tree: bool = False,
    limits: Optional[Limits] = None,
) -> Session:
    """Bring the agent into the running Python process ``pid``, which was started without it, and connect to it.

    Nothing has to be prepared in the process; it is stopped for less than a millisecond. ``app`` is the name that it gets, else made of its
    program and pid; ``config`` the path of a config file; ``probes`` adds targets, and ``on_demand`` says what may be hooked without being
    listed, everything unless something else is said. With ``tree`` the processes that it has started get the agent too. Where it is in the
    process already, that is just joined. ``Session.detach()`` takes it out again.

    Raises ``AttachError``, which says what to do, ``ApplicationNotFoundError`` if there is no such process, ``ConfigError``, and what
    ``connect`` raises.
    """
    found = attach_tree(pid, app=app, config=config, probes=probes, on_demand=on_demand) if tree else None
    one = found[0] if found else attach_process(pid, app=app, config=config, probes=probes, on_demand=on_demand)
    if tree:
        return connect(one.app, timeout=1.0, limits=limits, root=int(one.root) if one.root else None)
    return connect(reached_at(one), timeout=1.0, limits=limits)


def reached_at(one: Attached) -> Union[int, str]:
    """What `connect` takes for a process: its address where it has another pid, in a namespace of its own."""
    return one.pid if any(entry.pid == one.pid for entry in discovery.processes()) else one.address


def attach_tree(pid: int, *, app: Optional[str] = None, say: Callable[[str], None] = lambda line: None, **options: Any) -> List[Attached]:
    """As `attach_process` for a process and those that it has started, under one name; `say` is told of those where it cannot be done."""
    first = attach_process(pid, app=app, **options)
    found = [first]
    for child in children(pid):
        try:
            found.append(attach_process(child, app=first.app, root=first.root, **options))
        except (XpcError, OSError) as error:
            say(str(error))
    return found


def attach_process(
    pid: int,
    *,
    app: Optional[str] = None,
    config: Union[Config, str, os.PathLike[str], None] = None,
    probes: Iterable[str] = (),
    on_demand: Iterable[str] = (),
    root: str = "",
) -> Attached:
    """Bring the agent into one process, as `attach` does. Raises the same errors. `root` is that of its tree, or ""."""
    began = time.perf_counter()
    deadline = time.monotonic() + TIMEOUT
    if not os.path.exists(f"/proc/{pid}"):
        raise ApplicationNotFoundError(f"there is no process {pid}")
    try:
        with Lock(pid, deadline):
            known = _known(pid)
            if known is not None:
                return known
            examination = _examined(pid)
            settings = _config(examination, app, config, tuple(probes), tuple(on_demand))
            report = _brought(examination, settings, deadline, root or str(pid))
    except OSError as error:
        raise _lost(pid, error) from error
    _refuse(pid, report)
    attached = Attached(
        pid,
        str(report["app"]),
        str(report["address"]),
        str(report["folder"]),
        str(report["python"]),
        examination.program,
        int(report["modules"]),
        time.perf_counter() - began,
        bool(report["already"]),
        str(report["root"]),
    )
    if report["version"] != __version__:
        raise AttachError(
            f"process {pid} has version {report['version']} of xpc-instrument installed, and this is {__version__}: use that one"
        )
    return _make_known(attached, examination)


def detach_process(pid: int) -> str:
    """Take the agent out of another user's process without talking to it, as only root can; the name that the application had.

    What crosses from an application can run code in whoever talks to it. Here it is told by the way in of `attach`, and says no more than
    that name. Raises the same errors.
    """
    deadline = time.monotonic() + TIMEOUT
    try:
        with Lock(pid, deadline):
            report = _brought(_examined(pid), None, deadline)
    except OSError as error:
        raise _lost(pid, error) from error
    _refuse(pid, report)
    return str(report["app"])


# What of an error is this process's own affair.
_OWN_LIMITS = {
    errno.EMFILE: "ulimit -n raises it",
    errno.ENFILE: "the system has too many files open",
    errno.ENOMEM: "ulimit -v, or the memory of the machine",
    errno.EFBIG: "ulimit -f raises it",
    errno.ENOSPC: "make room, or set TMPDIR to another folder",
    errno.EAGAIN: "ulimit -u raises it",
}


def _lost(pid: int, error: OSError) -> Exception:
    """What is said of an error while a process is attached to: of most, that it ends."""
    if isinstance(error, XpcError):
        return error
    if isinstance(error, ProcessLookupError) or process_stat(pid) is None:
        return AttachError(f"process {pid} has ended while it was attached to")
    if error.errno in _OWN_LIMITS:
        return AttachError(
            f"process {pid} cannot be attached to: this process has come to a limit of its own ({error}): {_OWN_LIMITS[error.errno]}"
        )
    return AttachError(f"process {pid} cannot be attached to: {error}: it may be ending, or has just become another program; try again")


def _refuse(pid: int, report: Mapping[str, Any]) -> None:
    if report.get("refusal"):
        raise AttachError(f"process {pid} cannot be attached to: {report['refusal']}")
    if report.get("error"):
        raise AttachError(f"process {pid}: the agent cannot start in it: {report['error']}\n{report.get('traceback', '')}".rstrip())


def _examined(pid: int) -> Examination:
    """What is known of a process that can be attached to. Raises `AttachError` for any other."""
    deadline = time.monotonic() + _STARTING
    while True:
        examination = examine(pid)
        # One that has just begun has not mapped all of its files yet.
        if all(check.ok or not check.passing for check in examination.checks) or not _is_young(pid) or time.monotonic() > deadline:
            examination.refuse()
            return examination
        time.sleep(0.01)


def _is_young(pid: int) -> bool:
    return age(pid) < _STARTING


def _known(pid: int) -> Optional[Attached]:
    """A process that has the agent in it."""
    for entry in discovery.processes():
        if entry.pid == pid and (not entry.namespace or entry.namespace == pid_namespace()):
            return Attached(pid, entry.app, entry.address, str(runtime_dir(create=False)), entry.python, "", 0, 0.0, True, entry.root)
    return None


def _config(
    examination: Examination,
    app: Optional[str],
    config: Union[Config, str, os.PathLike[str], None],
    probes: Iterable[str],
    on_demand: Iterable[str],
) -> Config:
    if config is None:
        name = app or default_app(examination)
        return config_module.with_on_demand(config_module.from_probes(name, probes), on_demand or ("**",))
    made = config if isinstance(config, Config) else config_module.load(config)
    if app is not None:
        made = config_module.with_app(made, app)
    return config_module.with_on_demand(config_module.with_probes(made, probes), on_demand)


def default_app(examination: Examination) -> str:
    """The name of a process that is given none: of its program and pid, such as `gunicorn-4711`."""
    tail = f"-{examination.pid}"
    return examination.program[: 64 - len(tail)] + tail


def _brought(examination: Examination, config: Optional[Config], deadline: float, root: str = "") -> Mapping[str, Any]:
    """As `_bring`, for a process that may become another program meanwhile."""
    before = process_stat(examination.pid)
    try:
        return _bring(examination, config, deadline, root)
    except AttachError as error:
        now = process_stat(examination.pid)
        if now is not None and before is not None and now.stack != before.stack:
            told = f"process {examination.pid} has become another program while it was attached to (execve): try again"
            raise AttachError(told) from error
        raise


def _bring(examination: Examination, config: Optional[Config], deadline: float, root: str = "") -> Mapping[str, Any]:
    """Have the process start the agent, or stop it where there is no `config`; what it reports."""
    pid = examination.pid
    uid, gid = _file_owner(pid)
    with Job(pid, uid, gid, leaves=config is None) as job:
        shared = job.is_shared and uid == os.geteuid()
        if not shared and config is not None:
            job.write("sources.json", json.dumps(sources()))
        task = {
            "leave": config is None,
            "version": __version__,
            "config": "" if config is None else pack(config),
            "root": root,
            "folders": folders() if shared else {},
            "sources": not shared,
            "runtime_dir": str(runtime_dir()) if shared else "",
            "main": main_ident(pid) if examination.way == "stub" and examination.python < (3, 13) else 0,
        }
        job.write("job.json", json.dumps(task))
        job.write("needed.py", _text_of("needed.py"))
        job.write("attached.py", _compiled(_text_of("attached.py"), examination))
        path = job.write("start.py", _compiled(_text_of("gate.py"), examination))
        if examination.way == "stub":
            # Before Python 3.12 nothing is wrong with a fork beside a thread that waits.
            until = None if examination.python < (3, 12) else lambda: not job.has("start.py")
            injection = Injection(pid, _LOADER.format(path=path), until)
            threads = set(_tasks(pid))
            injection.run(deadline)
            report = None
            while report is None and _is_young(pid) and time.monotonic() < deadline:
                # Before Python is there, what is started in it ends without a word.
                report = job.await_report(time.monotonic() + _TRY_AGAIN)
                if report is None:
                    injection.run_again(deadline)
            report = report or job.await_report(deadline)
            if report is None and job.has_begun:
                report = job.await_report(deadline + _IMPORTING)
            if report is None:
                raise AttachError(f"process {pid} did not answer in time: {_why_silent(pid, threads, job.has_begun)}")
            thread = _task_of(pid, int(report["thread"]))
            if thread:
                injection.undo(thread, time.monotonic() + _UNDOING)
        else:
            script = job.write("remote.py", _STARTER.format(path=path))
            _remote_exec(pid, examination, script)
            report = job.await_report(deadline)
            if report is None:
                # Python would say on its standard error that there is no such file, whenever it comes to that.
                job.leave("remote.py", _NOTHING.format(path=script, folder=job.path))
                raise AttachError(
                    f"process {pid} did not answer within {TIMEOUT:g} s: its main thread is blocked in a system call; "
                    f"the way in was {examination.checks[-1].text}"
                )
        return report


def _tasks(pid: int) -> List[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _why_silent(pid: int, before: Set[str], has_begun: bool) -> str:
    if has_begun:
        return "it is importing the agent, which its own busy threads hold up; what it has imported stays: try again"
    if set(_tasks(pid)) <= before:
        return (
            "no thread of Python could be started in it: it may have come to one of its limits "
            f"(/proc/{pid}/limits: processes, address space, open files), which prlimit --pid {pid} raises; an audit hook of its own may "
            "forbid it; or Python has not begun in it, or has ended, as in a program that embeds it"
        )
    return (
        "one of its threads keeps the global interpreter lock that long (an operation in C, or uWSGI without --enable-threads); the thread "
        f"that waits for it there will do nothing: try again when that is over, or {RUN}"
    )


def _text_of(name: str) -> str:
    """Of what runs in the process before it can import anything of ours (`xpc_agent/bootstrap/`)."""
    return Path(folders()["xpc_agent"], "xpc_agent", "bootstrap", name).read_text(encoding="utf-8")


def _compiled(text: str, examination: Examination) -> str:
    """The same text, compiled beforehand where the process has this version of Python: forks in it wait that much shorter."""
    if examination.python[:2] != sys.version_info[:2]:
        return text
    code = marshal.dumps(compile(text, "<xpc-instrument attach>", "exec", dont_inherit=True))
    # Of two builds of one version, one may be a pre-release.
    return (
        "import sys\n"
        f"if sys.modules['_frozen_importlib_external'].MAGIC_NUMBER == {MAGIC_NUMBER!r}:\n exec(__import__('marshal').loads({code!r}))\n"
        f"else:\n exec({text!r})\n"
    )


def _remote_exec(pid: int, examination: Examination, script: str) -> None:
    """`sys.remote_exec` by a Python of the target's minor version: this one, or the target's own."""
    own: Optional[Callable[[int, str], None]] = getattr(sys, "remote_exec", None)
    try:
        if own is not None and examination.python[:2] == sys.version_info[:2]:
            own(pid, script)
            return
        code = f"import sys; sys.remote_exec({pid}, {script!r})"
        done = subprocess.run(  # noqa: S603
            [f"/proc/{pid}/exe", "-I", "-S", "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        raise AttachError(f"process {pid}: sys.remote_exec failed: {error}; start it with: xpc-instrument run -- COMMAND") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise AttachError(f"process {pid}: sys.remote_exec failed: {said}; start it with: xpc-instrument run -- COMMAND")


def _file_owner(pid: int) -> Tuple[int, int]:
    """As whom a process makes and reads files."""
    words: Dict[str, List[str]] = {}
    try:
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            name, _, rest = line.partition(":")
            words[name] = rest.split()
    except OSError:
        raise AttachError(f"process {pid} has ended") from None
    return int(words["Uid"][3]), int(words["Gid"][3])


def _task_of(pid: int, inner: int) -> int:
    """The number here of the thread that has another one in its own pid namespace; 0 if it has gone."""
    if os.path.exists(f"/proc/{pid}/task/{inner}"):
        return inner
    for task in _tasks(pid):
        try:
            text = Path(f"/proc/{pid}/task/{task}/status").read_text()
        except OSError:
            continue
        numbers = next((line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:")), [])
        if numbers and int(numbers[-1]) == inner:
            return int(task)
    return 1 << 30  # no thread has that number: it has ended


def _make_known(attached: Attached, examination: Examination) -> Attached:
    """Have `ps` and `connect` of whoever attached find the process, where its own runtime dir is another one."""
    try:
        socket = os.path.basename(attached.address)
        if any(entry.app == attached.app and os.path.basename(entry.address) == socket for entry in discovery.processes()):
            return attached
        address = attached.address
        if address.startswith("unix:") and not _sees(attached.pid):
            address = f"unix:{bound_path(f'/proc/{attached.pid}/root{address[5:]}')}"
        stats = process_stat(attached.pid) or ProcessStat()
        discovery.announce(
            discovery.Entry(
                *(attached.app, attached.pid, 0, address, stats.started, time.time(), examination.command, attached.python, __version__),
                namespace=pid_namespace(),
                root=attached.root,
                stack=stats.stack,
            )
        )
    except (XpcError, OSError) as error:
        raise AttachError(
            f"process {attached.pid} has the agent, and listens at {attached.address}, but cannot be made known here: {error}"
        ) from error
    return attached


def _sees(pid: int) -> bool:
    from .job import sees_the_same

    return sees_the_same(pid)
