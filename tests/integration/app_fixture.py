"""An application for the tests: a module of functions, and a main program that calls what it is told, line by line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

from tests.programs import Program, kept
from xpc_instrument import cli
from xpc_instrument.cli.run import make_environment
from xpc_instrument.cli.stub import stub_text
from xpc_instrument.core.config import file as config_module
from xpc_instrument.core.config.packed import pack

TARGETS = """
import threading

class Order:
    def __init__(self, number):
        self.number = number
        self.lock = threading.Lock()

    def total(self, factor=1):
        return self.number * factor

    @classmethod
    def made(cls, number):
        return cls(number).number

    @staticmethod
    def twice(number):
        return number * 2

    @property
    def label(self):
        return f"order {self.number}"


class Special(Order):
    pass


class Plain:
    def __init__(self, items):
        self.items = items


from math import sqrt as root

calls = []

def charge(amount, currency="EUR"):
    calls.append(amount)
    return f"{amount} {currency}"

def fail(text):
    calls.append(text)
    raise ValueError(text)

def give_lock():
    calls.append("lock")
    return threading.Lock()

def unique():
    return calls

async def wait_a_little(number):
    return number + 1

def nested(depth):
    return depth and 1 + nested(depth - 1)

def count(number):
    for i in range(number):
        yield i
    return "done"

async def acount(number):
    for i in range(number):
        yield i
"""

# Every object of `shop` that a patch could replace, by where it is found; compared by `is`.
SNAPSHOT = """
import sys, types
import shop

def code_of(name, value):
    function = getattr(value, "__func__", value)
    for part in ("fget", "fset", "fdel"):
        if isinstance(value, property):
            yield from code_of(f"{name}.{part}", getattr(value, part))
    if isinstance(function, types.FunctionType):
        for part in ("__code__", "__defaults__", "__kwdefaults__", "__closure__", "__globals__", "__annotations__", "__doc__"):
            yield f"{name}.{part}", getattr(function, part)
        yield from ((f"{name}.__dict__[{key!r}]", item) for key, item in function.__dict__.items())

def objects():
    for name, value in vars(shop).items():
        yield f"shop.{name}", value
        yield from code_of(f"shop.{name}", value)
        if isinstance(value, type):
            for key, item in vars(value).items():
                yield f"shop.{name}[{key!r}]", item
                yield from code_of(f"shop.{name}[{key!r}]", item)
    for name in ("meta_path", "path_hooks", "path"):
        yield from ((f"sys.{name}[{index}]", item) for index, item in enumerate(getattr(sys, name)))
    yield "sys.gettrace", sys.gettrace()
    yield "sys.getprofile", sys.getprofile()
    yield "import", __builtins__["__import__"]

kept = {}

def keep():
    kept.update(objects())

def differences():
    now = dict(objects())
    missing = object()
    return sorted(name for name in kept.keys() | now.keys() if kept.get(name, missing) is not now.get(name, missing))
"""

BEGIN = """
import sys, logging
logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
import shop
from snapshot import differences, keep
"""

OBEY = """
print("ready", flush=True)
for line in sys.stdin:
    if not line.strip():
        break
    if "asyncio" in line:
        # By no means always: it takes an interpreter a fifth of its start.
        import asyncio
    try:
        answer = repr(eval(line))
    except BaseException as error:
        answer = f"raised {type(error).__name__}: {error}"
    print(f"=> {answer}\\n", end="", flush=True)  # in one write, so that the log of another thread does not come in between
"""

MAIN = BEGIN + OBEY

# A process in which one application after the other runs: each with an agent, modules and global names of its own.
MAIN_OF_MANY = (
    """
import gc, os, signal, sys, threading
import xpc_agent
from xpc_instrument.core.config.packed import unpack

def begin(folder, runtime_dir, config):
    os.chdir(folder)
    sys.path.insert(0, folder)
    os.environ["XPC_INSTRUMENT_RUNTIME_DIR"] = runtime_dir
    xpc_agent.start(unpack(config))
    exec(BEGIN, globals())

def end():
    xpc_agent.stop()
    folder = sys.path.pop(0)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]
    for name in set(globals()) - usual:
        del globals()[name]
    gc.collect()
    return state()

def state():
    # All that an application may leave behind in its process, and no more.
    fds = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    return repr((fds, handlers, len(os.listdir("/proc/self/task")), gc.isenabled(), sys.gettrace(), sys.getprofile()))
"""
    + f"BEGIN = {BEGIN!r}\nusual = {{*globals(), 'usual', 'line', 'answer', 'error', 'asyncio'}}\n"
    + OBEY
)


class App:
    """The application as a process: `evaluate` runs an expression in it and gives the text of its result."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def evaluate(self, expression: str) -> str:
        self.start(expression)
        return self.result()

    def start(self, expression: str) -> None:
        self.program.send_line(expression)

    def result(self) -> str:
        return self.program.read_until("=> ").partition("=> ")[2]

    def log(self) -> str:
        """All that it has printed and logged. Lines of the agent's are written a moment after what they tell of."""
        end = f"this is the end of the log, {len(self.program.output)}"
        self.evaluate(f"__import__('logging').getLogger('xpc_instrument').warning({end!r})")
        self.program.find_line(end)
        return self.program.text

    @property
    def calls(self) -> Any:
        return self.evaluate("shop.calls")


# What `xpc-instrument run` does before it becomes the command, without an interpreter for it: hundreds of tests start an application.
# Those of the command itself are in test_cli.py.
LAUNCH = (
    'XPC_INSTRUMENT_MAIN_PID=$$ PYTHONPATH="$1${PYTHONPATH:+:$PYTHONPATH}" XPC_INSTRUMENT_CONFIG_PACKED="$2" XPC_INSTRUMENT_STUB="$3"; \
shift 3; export XPC_INSTRUMENT_MAIN_PID PYTHONPATH XPC_INSTRUMENT_CONFIG_PACKED XPC_INSTRUMENT_STUB; exec "$@"'
)


def write_app(folder: Path, config: str = "") -> Path:
    """Write the files of the application; returns the path of its config."""
    (folder / "shop.py").write_text(TARGETS)
    (folder / "snapshot.py").write_text(SNAPSHOT)
    (folder / "main.py").write_text(MAIN)
    settings = folder / "xpc-instrument.toml"
    settings.write_text('app = "shop"\n' + (config or '[[probe]]\ntarget = "shop:*"\n'))
    return settings


def instrumented(config: Path, *words: str) -> list[str]:
    """The command that starts another as `xpc-instrument run --config` would."""
    read = config_module.load(config)
    packed = pack(read)
    return ["sh", "-c", LAUNCH, "sh", make_environment({}, packed, 0)["PYTHONPATH"], packed, stub_text(read), *words]


def start_app(run_program: Callable[..., Program], folder: Path, config: str = "", python: list[str] | None = None) -> App:
    """Start the application as `xpc-instrument run` would; ready when it returns."""
    path = write_app(folder, config)
    program = run_program(command=instrumented(path, sys.executable, *(python or []), "main.py"), cwd=folder)
    program.read_until("ready")
    return App(program)


class Reused:
    """A process for the applications of many tests, so that not each has to wait for an interpreter to start.

    What one application leaves behind in it, the next one must not find: the process is replaced if anything is left, or if it has ended.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "main.py").write_text(MAIN_OF_MANY)
        self._process: App | None = None
        self._usual = ""
        self._begun = False

    def begin(self, folder: Path, runtime_dir: Path, config: str = "") -> App:
        """Start an application in this folder, in the place of the one before; ready when it returns."""
        self.end()
        if self._process is None:
            # Its own folder as the runtime directory: nobody is to find it in that of the first test.
            program = Program(self._folder / "main.py", env={"XPC_INSTRUMENT_RUNTIME_DIR": str(self._folder)})
            kept.add(program)
            program.read_until("ready")
            self._process = App(program)
            self._usual = self._process.evaluate("state()")
        self._begun = True
        packed = pack(config_module.load(write_app(folder, config)))
        assert self._process.evaluate(f"begin({str(folder)!r}, {str(runtime_dir)!r}, {packed!r})") == "None"
        self._process.program.output.clear()
        return App(self._process.program)

    def end(self) -> None:
        """End the application, if there is one, and the process, if it is not as it was before."""
        begun, self._begun = self._begun, False
        if begun and self._process is not None:
            as_before = False
            try:
                as_before = self._process.program.process.poll() is None and self._process.evaluate("end()") == self._usual
            finally:
                if not as_before:
                    self.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.program.end()
            kept.discard(self._process.program)
            self._process = None


def command(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a command says and its exit status, without a process for it; the command as a process is tested in test_cli.py.

    One that becomes another program must not get that far: the tests would end with it. Have it become one that fails.
    """
    out, err = io.StringIO(), io.StringIO()
    before = os.getcwd()
    os.chdir(cwd or before)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = cli.main([*words])
            except SystemExit as left:
                status = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def listing(*options: str) -> str:
    """What `xpc-instrument ls shop` prints."""
    done = command("ls", "shop", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_json(text: str) -> Any:
    """Parse the output of a command with --json."""
    return json.loads(text)
