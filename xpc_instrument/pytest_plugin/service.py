"""The application under test: started once for the test run with the agent in it, known to be ready, and ended with all that it started.

Rules:
- It is started by `xpc-instrument run` in a session of its own, so that Ctrl-C in the terminal is for the test run alone.
- What it prints, and all that it starts prints, goes to one file: nobody has to read it for the application to go on.
- Whatever happens to the test run, a keeper (`keeper.py`) ends the application when the test run is gone.
- The session follows what this very run started, and no other application that has its name.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Callable, List, NamedTuple, Optional, Sequence

import pytest

from ..core.config import file as config_file
from ..core.discovery import entry as discovery
from ..core.discovery.name import app_name
from ..core.model.errors import ApplicationNotFoundError, ChannelError, XpcError
from ..core.unpatched import monotonic
from ..script.connect import connect
from ..script.manager import find_free_port
from ..script.session import Session
from . import keeper

# How often readiness is looked at again, in seconds.
_LOOK_AGAIN = 0.02
# How much of what the application has printed a failure shows, in bytes, from the end.
SHOWN = 8_000


class Settings(NamedTuple):
    """What the ini options and flags say."""

    command: str
    """How the application is started; `{port}` and `{worker}` are filled in."""

    ready: str
    """A URL, `tcp:PORT`, or `/regex/` of its output; "" for a session that could be joined."""

    timeout: float
    """For how many seconds it may take to be ready."""

    on_demand: Sequence[str]
    folder: Path
    worker: str
    """The worker of xdist; "" without it."""

    app: str
    """The application that runs already (`--xpc-app`); "" to start one."""


class Service:
    """The application under test, as the fixture ``xpc_app`` gives it."""

    port: int
    """The free port that ``{port}`` in the command stands for; 0 of an application that was there before."""

    session: Session
    """The session with it, for hooks of the test's own: ``xpc_app.session.before(...)``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._keeper: Optional[subprocess.Popen[bytes]] = None
        self._printed: Optional[IO[bytes]] = None
        self.port = 0
        if settings.app:
            try:
                self.session = connect(int(settings.app) if settings.app.isdigit() else settings.app, timeout=settings.timeout)
            except XpcError as error:
                pytest.fail(f"--xpc-app {settings.app}: {error}", pytrace=False)
            return
        if not settings.command:
            pytest.fail(
                "xpc_app: it is not said how the application is started: set xpc_command in [tool.pytest.ini_options], such as "
                'xpc_command = "gunicorn --bind 127.0.0.1:{port} shop.web:app", or name one that runs with --xpc-app',
                pytrace=False,
            )
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The pid of the application's first process."""
        return self._process.pid if self._process is not None else self.session.pids[0]

    @property
    def url(self) -> str:
        """Where it is to be asked: scheme, host and port of the URL by which it is known to be ready, else ``http://127.0.0.1:PORT``."""
        ready = urllib.parse.urlsplit(self._filled(self._settings.ready))
        if ready.scheme in ("http", "https"):
            return f"{ready.scheme}://{ready.netloc}"
        if not self.port:
            pytest.fail("xpc_app.url: not known of an application that runs already: set xpc_ready to a URL of it", pytrace=False)
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What it has printed so far, on standard output and standard error together; "" of an application that was there before."""
        return self.printed(0)

    def printed(self, since: int) -> str:
        """What it has printed behind so many bytes."""
        if self._printed is None:
            return ""
        with open(self._printed.name, "rb") as file:
            file.seek(since)
            return file.read().decode("utf-8", "replace")

    @property
    def bytes_printed(self) -> int:
        """How many bytes it has printed."""
        return 0 if self._printed is None else Path(self._printed.name).stat().st_size

    def last_printed(self, since: int) -> str:
        """The end of what it has printed behind so many bytes, as a report shows it: at most ``SHOWN`` bytes, and how many are left out."""
        behind = self.bytes_printed - since
        cut = max(0, behind - SHOWN)
        text = self.printed(since + cut)
        return f"... {cut} bytes before this ...\n{text}" if cut else text

    def ended(self) -> str:
        """How the application has ended, with what it printed last; "" while it runs."""
        if self._process is None or self._process.poll() is None:
            return ""
        return f"the application has ended ({self._how_ended()}); {self._last_words()}"

    def check_alive(self) -> None:
        """Fail the test if the application has ended."""
        ended = self.ended()
        if ended:
            pytest.fail(ended, pytrace=False)

    def stop(self) -> None:
        """Close the session, and end the application with all that it started."""
        if hasattr(self, "session"):
            self.session.close()
        if self._process is not None:
            keeper.end(self._process.pid, keeper.started_at(self._process.pid))
            self._process.wait()
            # One that was told to end has removed nothing of what it left in the runtime directory; whoever looks does.
            discovery.processes()
        if self._keeper is not None:
            self._keeper.communicate(b"x")
        if self._printed is not None:
            self._printed.close()

    # starting ----------------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        settings = self._settings
        self.port = find_free_port()
        what, ready = self._readiness()
        words = [sys.executable, "-m", "xpc_instrument.cli", "run", "--app", self._name()]
        for pattern in settings.on_demand:
            words += ["--on-demand", pattern]
        command = [self._filled(word) for word in _words(settings.command)]
        self._printed = tempfile.NamedTemporaryFile(prefix="xpc-output-", suffix=".txt")  # noqa: SIM115 - closed in stop()
        self._process = subprocess.Popen(  # noqa: S603
            [*words, "--", *command],
            cwd=settings.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._keeper = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", keeper.__file__, str(self._process.pid), self._printed.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        deadline = monotonic() + settings.timeout
        self._wait(deadline, what, ready)
        self._join(deadline)

    def _name(self) -> str:
        """The app name: the config's, else the folder's; with the worker of xdist behind it."""
        found = config_file.find(self._settings.folder)
        name = config_file.load(found).app if found is not None else config_file.default_app(self._settings.folder)
        return app_name(f"{name}-{self._settings.worker}") if self._settings.worker else name

    def _filled(self, text: str) -> str:
        return text.replace("{port}", str(self.port)).replace("{worker}", self._settings.worker or "main")

    def _readiness(self) -> tuple[str, Callable[[float], bool]]:
        """What is waited for, in words, and what tells whether it is there, within as many seconds as it is given."""
        ready = self._filled(self._settings.ready)
        if not ready:
            return "it can be joined", lambda left: self._is_announced()
        if ready.startswith(("http://", "https://")):
            return f"{ready} answers with less than 500", lambda left: _answers(ready, left)
        if ready.startswith("tcp:"):
            host, _, port = ready[len("tcp:") :].rpartition(":")
            if port.isdigit():
                return f"port {port} is open", lambda left: _is_open(host or "127.0.0.1", int(port), left)
        if len(ready) > 2 and ready.startswith("/") and ready.endswith("/"):
            try:
                pattern = re.compile(ready[1:-1], re.MULTILINE)
            except re.error as error:
                pytest.fail(f"xpc_ready = {ready!r}: no regular expression: {error}", pytrace=False)
            return f"its output has {ready}", lambda left: pattern.search(self.output) is not None
        pytest.fail(f"xpc_ready = {self._settings.ready!r}: expected a URL, tcp:PORT, or /regex/ of its output", pytrace=False)

    def _wait(self, deadline: float, what: str, ready: Callable[[float], bool]) -> None:
        assert self._process is not None
        while not ready(max(_LOOK_AGAIN, deadline - monotonic())):
            if self._process.poll() is not None:
                pytest.fail(
                    f"the application ended before it was ready ({self._how_ended()}): {self._settings.command!r}; {self._last_words()}",
                    pytrace=False,
                )
            if monotonic() >= deadline:
                pytest.fail(
                    f"the application was not ready within {self._settings.timeout:g} s (xpc_timeout): expected that {what}; "
                    f"{self._last_words()}",
                    pytrace=False,
                )
            time.sleep(_LOOK_AGAIN)

    def _is_announced(self) -> bool:
        return bool(self._entries())

    def _entries(self) -> List[discovery.Entry]:
        assert self._process is not None
        return [entry for entry in discovery.processes() if entry.root == str(self._process.pid)]

    def _join(self, deadline: float) -> None:
        assert self._process is not None
        self._wait(deadline, "it can be joined", lambda left: self._is_announced())
        left = max(0.0, deadline - monotonic())
        try:
            self.session = connect(self._entries()[0].app, timeout=left, root=self._process.pid)
        except (ApplicationNotFoundError, ChannelError, IndexError) as error:
            pytest.fail(f"the application could not be joined: {error}; {self._last_words()}", pytrace=False)

    def _how_ended(self) -> str:
        assert self._process is not None
        status = self._process.returncode
        return f"exit status {status}" if status >= 0 else f"signal {-status}"

    def _last_words(self) -> str:
        text = self.last_printed(0).strip()
        return f"what it printed:\n{text}" if text else "it printed nothing"


def _words(command: str) -> List[str]:
    """The words of `xpc_command`."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        pytest.fail(f"xpc_command = {command!r}: it cannot be read as a shell would: {error}", pytrace=False)
    if not words or re.match(r"[A-Za-z_]\w*=", words[0]):
        pytest.fail(f"xpc_command = {command!r}: expected a command first; variables are set with: env NAME=VALUE COMMAND", pytrace=False)
    return words


def _answers(url: str, seconds: float) -> bool:
    """Whether it answers in time. The first request of an application may take long: it is given all the time that is left."""
    try:
        # Not through a proxy of the environment: the application is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=seconds):  # as the user has set it
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code < 500
    except (OSError, ValueError):
        return False


def _is_open(host: str, port: int, seconds: float) -> bool:
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False
