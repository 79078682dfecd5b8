"""The pytest plugin: an application that is started for the test run, and mocks of its functions. Loaded by pytest (`pytest11`).

Rules:
- pytest loads this module in every test run of the environment: it imports nothing else of the project until a fixture is used.
- A mistake in a hook, such as an `assert`, fails the test that it belongs to; what is left over at its end is an error of its teardown.
- Whatever happens, the application is as it was after each scope, and is ended with the test run.
"""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any, Iterator, List, Set, Tuple

import pytest

if TYPE_CHECKING:
    from ..script.handle import Handle
    from .mocker import Mocker
    from .service import Service

pytest.register_assert_rewrite("xpc_instrument.pytest_plugin.compare")


class _Run:
    """What there is in this test run: the application, if it has been started, and the mockers of each scope."""

    def __init__(self) -> None:
        self.service: Service | None = None
        self.mockers: List[Mocker] = []
        # Of the test that runs: what the application had printed when it began, and the hooks that there were when its body did.
        self.printed = 0
        self.hooks: Set[int] = set()
        self.shown: List[str] = []
        # What hooks of the session have failed with since the test began, those that are removed by now too; and the hooks of mockers,
        # which tell of that themselves.
        self.failed: List[Tuple[Handle, BaseException]] = []
        self.own: Set[int] = set()
        # Of a test that has failed by itself.
        self.told: List[str] = []
        # The hooks that were left armed when the application was ended, which is before the last test of the run is reported.
        self.left: List[str] = []


_RUN = pytest.StashKey[_Run]()

# Where the files of this project are.
_OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ini options and the flags."""
    parser.addini("xpc_command", "how the application under test is started; {port} and {worker} are filled in", default="")
    parser.addini("xpc_ready", "when it is ready: a URL, tcp:PORT, or /regex/ of its output; {port} is filled in", default="")
    parser.addini("xpc_timeout", "for how many seconds at most it may take to be ready", default="30")
    parser.addini("xpc_on_demand", "patterns of functions that may be hooked, such as shop.**", type="args", default=[])
    group = parser.getgroup("xpc", "xpc-instrument: hooks in an application that really runs")
    group.addoption("--xpc-app", metavar="NAME", default="", help="use an application that runs already, by its name or pid")
    group.addoption("--xpc-show", action="store_true", help="show what the hooks saw also of tests that pass")
    group.addoption("--xpc-record", metavar="DIR", default="", help="write what patches and spies saw there, a recording for each test")
    group.addoption("--xpc-strict", action="store_true", help="a patch that was never called is an error")


def pytest_configure(config: pytest.Config) -> None:
    """Make room for what there will be."""
    folder = config.getoption("--xpc-record")
    if folder and os.path.exists(folder) and not os.path.isdir(folder):
        raise pytest.UsageError(f"--xpc-record {folder}: expected a folder, and it is a file")
    config.stash[_RUN] = _Run()


# fixtures ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def xpc_app(request: pytest.FixtureRequest) -> Iterator[Service]:
    """The application under test, started on first use: `.url .port .pid .output .session`."""
    from .service import Service, Settings

    config = request.config
    seconds = config.getini("xpc_timeout")
    try:
        timeout = float(seconds)
    except ValueError:
        raise pytest.UsageError(f"xpc_timeout = {seconds!r}: expected a number of seconds") from None
    service = Service(
        Settings(
            config.getini("xpc_command"),
            config.getini("xpc_ready"),
            timeout,
            tuple(config.getini("xpc_on_demand")),
            config.rootpath,
            os.environ.get("PYTEST_XDIST_WORKER", ""),
            config.getoption("--xpc-app"),
        )
    )
    run = config.stash[_RUN]
    run.service = service
    service.session._server.noted = lambda handle, error: run.failed.append((handle, error))
    try:
        yield service
    finally:
        run.left = _remove_left(run)
        run.service = None
        service.stop()


def _mocker(request: pytest.FixtureRequest, xpc_app: Service) -> Iterator[Mocker]:
    from .mocker import Mocker

    xpc_app.check_alive()
    run = request.config.stash[_RUN]
    folder = request.config.getoption("--xpc-record")
    recorded = None
    if folder:
        from .recordings import Recorded, file_name

        recorded = Recorded(xpc_app.session.app, xpc_app.session._redaction())
    mocker = Mocker(xpc_app.session, recorded)
    run.mockers.append(mocker)
    try:
        yield mocker
    finally:
        try:
            mocker.stopall()
        finally:
            run.mockers.remove(mocker)
            run.own |= mocker.handles()
            if recorded is not None:
                # A test runs in one worker of xdist; what is shared by several is begun in each.
                worker = "" if request.scope == "function" else os.environ.get("PYTEST_XDIST_WORKER", "")
                recorded.write(folder, file_name(request.node.nodeid, worker))
        problems = mocker.problems(strict=request.config.getoption("--xpc-strict"))
        if problems:
            pytest.fail("\n".join(problems), pytrace=False)


xpc = pytest.fixture(_mocker, name="xpc")
class_xpc = pytest.fixture(_mocker, scope="class", name="class_xpc")
module_xpc = pytest.fixture(_mocker, scope="module", name="module_xpc")
session_xpc = pytest.fixture(_mocker, scope="session", name="session_xpc")


# reports -----------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note where the output of this test begins. A test of an application that has ended fails."""
    run = item.config.stash[_RUN]
    run.printed = 0 if run.service is None else run.service.bytes_printed
    run.failed, run.told = [], []
    if run.service is not None and _is_of_the_application(item):
        run.service.check_alive()


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note which hooks there are before the test itself: what fixtures have registered is for them to remove. Fail it for a mistake in a
    hook, as it would for one of its own, so that what judges it (`xfail`) sees that."""
    run = item.config.stash[_RUN]
    run.hooks = set() if run.service is None else {handle.number for handle in run.service.session.handles}
    outcome: Any = yield
    told = _mistakes(run)
    if told and outcome.excinfo is None:
        outcome.force_exception(pytest.fail.Exception("\n\n".join(told), pytrace=False))
    else:
        run.told = told


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Fail the test for a mistake in a hook, and show what the hooks saw and what the application printed."""
    outcome: Any = yield
    run = item.config.stash[_RUN]
    report: pytest.TestReport = outcome.get_result()
    if run.service is None:
        if report.when == "teardown":
            left, run.left = run.left, []
            _report_left(left, report)
            _report_late(run, report)
        return
    if report.when == "call":
        _report_hooks(run, report, item.config.getoption("--xpc-show"))
        ended = run.service.ended() if _is_of_the_application(item) else ""
        if ended and report.passed:
            report.outcome = "failed"
            report.longrepr = ended
    elif report.when == "teardown":
        _report_left(_remove_left(run), report)
        _report_late(run, report)
    if report.failed:
        printed = run.service.last_printed(run.printed)
        if printed:
            report.sections.append((f"output of the application (pid {run.service.pid})", printed))


def _is_of_the_application(item: pytest.Item) -> bool:
    return "xpc_app" in getattr(item, "fixturenames", ())


def _report_hooks(run: _Run, report: pytest.TestReport, show: bool) -> None:
    from .seen import report as shown

    seen = [one for mocker in run.mockers for one in mocker.all_seen()]
    if run.told:
        report.sections.append(("mistakes in hooks", "\n\n".join(run.told)))
    if seen and report.failed:
        report.sections.append(("what the hooks saw", shown(seen)))
    elif seen and show:
        run.shown.append(f"{report.nodeid}\n{shown(seen)}")


def _report_late(run: _Run, report: pytest.TestReport) -> None:
    """Mistakes that came while fixtures were torn down."""
    told = _mistakes(run)
    if told:
        report.longrepr = "\n\n".join([*([str(report.longrepr)] if report.failed else []), *told])
        report.outcome = "failed"


def _mistakes(run: _Run) -> List[str]:
    """The mistakes in hooks that were not told yet."""
    seen = [one for mocker in run.mockers for one in mocker.all_seen()]
    told = [f"a hook of this test made a mistake: {one.kind} {one.target}\n{_traceback(error)}" for one in seen for error in one.mistakes]
    for one in seen:
        one.mistakes = []
    own = run.own | {number for mocker in run.mockers for number in mocker.handles()}
    failed, run.failed = run.failed, []
    broken = {handle.number: (handle, error) for handle, error in failed if handle.number not in own}
    return told + [f"a hook of this test failed: {handle.mode} {handle.target}\n{_traceback(error)}" for handle, error in broken.values()]


def _remove_left(run: _Run) -> List[str]:
    """Remove the hooks that the test itself has registered and not removed; returns their names."""
    assert run.service is not None
    own = {number for mocker in run.mockers for number in mocker.handles()}
    left = [handle for handle in run.service.session.handles if handle.number not in own | run.hooks]
    for handle in left:
        handle.remove()
    return [f"{handle.mode} {handle.target}" for handle in left]


def _report_left(left: List[str], report: pytest.TestReport) -> None:
    if left and report.passed:
        names = ", ".join(left)
        report.outcome = "failed"
        report.longrepr = f"the test has left hooks armed, which are removed now: {names}; expected that it removes what it registers"


def _traceback(error: BaseException) -> str:
    """As Python prints it, from the first frame on that is neither ours nor a mock's."""
    shown = error.__traceback__
    while shown is not None and shown.tb_next is not None and _is_between(shown.tb_frame.f_code.co_filename):
        shown = shown.tb_next
    return "".join(traceback.format_exception(type(error), error, shown)).rstrip()


def _is_between(file: str) -> bool:
    return file.startswith(_OWN) or file.endswith(os.path.join("unittest", "mock.py"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What the hooks of tests that passed saw (`--xpc-show`)."""
    shown = config.stash[_RUN].shown
    if shown:
        terminalreporter.section("what the hooks saw")
        for text in shown:
            terminalreporter.write_line(text)
