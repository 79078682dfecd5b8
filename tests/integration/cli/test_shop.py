"""The Flask shop of `examples/shop` under gunicorn with three workers, hooked from the process of the test."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple
from unittest.mock import Mock, call

import pytest

import xpc_instrument
from tests.programs import PATIENCE, Program, kill, wait_for_exit
from xpc_instrument.core.discovery import entry as discovery

pytest.importorskip("flask", reason="flask is not installed")
pytest.importorskip("gunicorn", reason="gunicorn is not installed")

SHOP = Path(__file__).resolve().parents[3] / "examples" / "shop"
RUN = [sys.executable, "-m", "xpc_instrument.cli", "run", "--"]
GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--workers"]
POST = "shop.gateway:Gateway.post"
WORKERS = 3

# A worker of gunicorn's kind "sync" handles one request at a time, so three that meet here are in three workers.
Meeting = threading.Barrier


class Bank:
    """A real payment gateway: it answers when as many requests have come as there are workers."""

    def __init__(self) -> None:
        meeting = Meeting(WORKERS)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                meeting.wait(PATIENCE)
                body = json.dumps({"ok": True, "receipt": "of the bank"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """The test looks at the answers."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Shop:
    """The running shop."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.url = program.read_until("Listening at: ").partition("Listening at: ")[2].split()[0]

    def buy(self, tea: int = 1) -> Tuple[int, Any]:
        """The status, and the JSON if there is one."""
        order = json.dumps({"items": {"tea": tea}, "card": "4242"}).encode()
        request = urllib.request.Request(f"{self.url}/checkout", order, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
                return error.code, json.loads(text) if text.startswith(b"{") else None

    def buy_from_each_worker(self) -> List[Tuple[int, Any]]:
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(self.buy, range(1, WORKERS + 1)))


def receipts(receipt: str) -> List[Tuple[int, Any]]:
    return [(200, {"receipt": receipt, "paid": 450 * tea}) for tea in range(1, WORKERS + 1)]


@pytest.fixture
def bank() -> Iterator[Bank]:
    bank = Bank()
    yield bank
    bank.close()


@pytest.fixture
def start(run_program: Callable[..., Program], bank: Bank, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    shops: List[Shop] = []

    def start_shop(*options: str) -> Shop:
        # gunicorn keeps a socket of its own in the home directory.
        env = {"SHOP_GATEWAY": bank.address, "HOME": str(tmp_path)}
        shops.append(Shop(run_program(command=[*RUN, *GUNICORN, str(WORKERS), *options, "shop.web:app"], cwd=SHOP, env=env)))
        return shops[-1]

    yield start_shop
    for shop in shops:
        if shop.program.process.poll() is None:
            shop.program.signal(signal.SIGTERM)
        assert shop.program.wait() == 0


def meeting_mock(receipt: str) -> Mock:
    meeting = Meeting(WORKERS)

    def answer(*_: Any) -> Any:
        meeting.wait(PATIENCE)
        return {"ok": True, "receipt": receipt}

    return Mock(side_effect=answer)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_each_worker_is_answered_by_the_mock_and_by_the_bank_once_the_session_has_closed(
    start: Callable[..., Shop], options: Tuple[str, ...]
) -> None:
    shop = start(*options)
    mock = meeting_mock("of the mock")
    pids: List[int] = []
    with xpc_instrument.connect("shop") as session:
        session.before(POST, lambda call: pids.append(call.pid))
        session.instead(POST, mock)
        assert shop.buy_from_each_worker() == receipts("of the mock")
        everyone = sorted({shop.program.pid, *pids})
        assert len(everyone) == 1 + WORKERS
        assert sorted(entry.pid for entry in discovery.processes("shop")) == everyone
        assert session.pids == everyone
    charges = [call("/charges", {"amount": 450 * tea, "currency": "EUR", "card": "4242"}) for tea in range(1, WORKERS + 1)]
    mock.assert_has_calls(charges, any_order=True)
    assert mock.call_count == WORKERS
    assert shop.buy_from_each_worker() == receipts("of the bank")


def test_a_mock_sees_exactly_what_the_gateway_would_have_got(start: Callable[..., Shop]) -> None:
    shop = start()
    mock = Mock(return_value={"ok": True, "receipt": "r-1"})
    with xpc_instrument.connect("shop") as session:
        session.instead(POST, mock)
        assert shop.buy(tea=2) == (200, {"receipt": "r-1", "paid": 900})
    mock.assert_called_once_with("/charges", {"amount": 900, "currency": "EUR", "card": "4242"})


def test_the_replacement_of_a_killed_worker_is_hooked_too(start: Callable[..., Shop]) -> None:
    shop = start()
    pids: List[int] = []
    with xpc_instrument.connect("shop") as session:
        session.before(POST, lambda call: pids.append(call.pid))
        session.instead(POST, meeting_mock("of the mock"))
        shop.buy_from_each_worker()
        victim = pids[0]
        kill(victim)
        assert wait_for_exit(victim)
        pids.clear()
        assert shop.buy_from_each_worker() == receipts("of the mock")
        assert len(set(pids)) == WORKERS
        assert victim not in pids
        assert sorted(entry.pid for entry in discovery.processes("shop")) == sorted([shop.program.pid, *pids])


def test_an_exception_of_the_mock_is_raised_in_the_shop(start: Callable[..., Shop]) -> None:
    shop = start()
    with xpc_instrument.connect("shop") as session:
        session.instead(POST, Mock(side_effect=TimeoutError("slow bank")))
        assert shop.buy() == (500, None)
        shop.program.read_until("TimeoutError: slow bank")


def test_gunicorn_ends_by_sigterm_as_without_us_and_leaves_nothing(start: Callable[..., Shop], runtime_dir: Path) -> None:
    shop = start()
    with xpc_instrument.connect("shop") as session:
        session.instead(POST, meeting_mock("of the mock"))
        shop.buy_from_each_worker()
        shop.program.signal(signal.SIGTERM)
        assert shop.program.wait() == 0
    assert os.listdir(runtime_dir) == []


def test_gunicorn_keeps_its_own_exit_status(run_program: Callable[..., Program], tmp_path: Path) -> None:
    words = [*GUNICORN, "1", "shop.web:there_is_no_such_app"]
    alone = run_program(command=words, cwd=SHOP, env={"HOME": str(tmp_path)})
    instrumented = run_program(command=[*RUN, *words], cwd=SHOP, env={"HOME": str(tmp_path)})
    status = alone.wait()
    assert status > 0
    assert instrumented.wait() == status


def instructions(first: str) -> List[str]:
    """The lines of the block in the example's README that begins with this word."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (SHOP / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(first)]
    return [line.partition("#")[0].strip() for line in block.splitlines()]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The example, out of the repository, below a folder with settings of pytest for which it lacks the plugin, as the repository is."""
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--strict-config"\nof_no_plugin_here = 1\n')
    return Path(shutil.copytree(SHOP, tmp_path / "elsewhere" / "shop", ignore=shutil.ignore_patterns("__pycache__", ".*")))


def typed(line: str, folder: Path, run_program: Callable[..., Program]) -> Program:
    """Type a line into a terminal where the project's environment is active, as `. .venv/bin/activate` makes it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return run_program(command=["sh", "-c", f"exec {line}"], cwd=folder, env={"PATH": path, "HOME": str(folder)})


def test_the_tests_of_the_example_pass_as_its_readme_says_to_run_them(copied: Path, run_program: Callable[..., Program]) -> None:
    make, activate, install, run = instructions("python -m venv")
    assert (make, activate) == ("python -m venv .venv", ". .venv/bin/activate")
    # The environment of this test stands for theirs; what they install has to be all that the example needs.
    wanted = install.partition("python -m pip install ")[2].split()
    assert wanted == ["flask", "gunicorn", "pytest", "PATH_OR_URL"]
    program = typed(run, copied, run_program)
    # Ten tests and a gunicorn: longer than one step takes.
    assert program.wait(1.7 * PATIENCE) == 0, program.text
    assert "10 passed" in program.text


def test_the_example_is_started_and_looked_at_by_hand_as_its_readme_says(copied: Path, run_program: Callable[..., Program]) -> None:
    (start,) = instructions("xpc-instrument run")
    shop = typed(start.replace("8001", "0"), copied, run_program)
    shop.read_until("Listening at: ")
    for line in instructions("xpc-instrument check"):
        program = typed(line, copied, run_program)
        assert program.wait() == 0, program.text
        assert "shop.gateway:Gateway" in program.text
    shop.signal(signal.SIGTERM)
    assert shop.wait() == 0
