"""Applications that know nothing of us, as their users start them: http.server, FastAPI under uvicorn, Flask, pip, a console script."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest

import xpc_agent
import xpc_instrument
from tests.integration.app_fixture import instrumented
from tests.programs import PATIENCE, Program, wait_for, wait_for_exit
from xpc_instrument import Manager, find_free_port
from xpc_instrument.core.discovery import entry as discovery

RUN = [sys.executable, "-m", "xpc_instrument.cli", "run"]


def get(url: str) -> Tuple[int, str]:
    """Status and body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def get_json(url: str) -> Any:
    status, body = get(url)
    assert status == 200, body
    return json.loads(body)


# http.server -------------------------------------------------------------------------------------------------------------

DO_GET = "http.server:SimpleHTTPRequestHandler.do_GET"

PROBE = f"""
import logging, xpc_instrument

app = xpc_instrument.connect("files")

@app.before("{DO_GET}")
def log(call):
    print("before", call.instance.path, call.pid, flush=True)

@app.after("{DO_GET}")
def timing(call):
    print("after", call.instance.path, call.duration > 0, flush=True)

@app.around("{DO_GET}")
def hidden(call):
    handler = call.instance
    if handler.path != "/hidden":
        return call.proceed()
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"written by another process")

logging.basicConfig(level=logging.INFO)
app.run()
"""


class Files:
    """`python -m http.server`, serving a folder with one file."""

    def __init__(self, run_program: Callable[..., Program], folder: Path) -> None:
        served = folder / "served"
        served.mkdir()
        (served / "hello.txt").write_text("hello")
        config = folder / "files.toml"
        config.write_text(f'app = "files"\n[defaults]\ntimeout = 20.0\n[[probe]]\ntarget = "{DO_GET}"\n')
        self.command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(served), "0"]
        self.program = run_program(command=instrumented(config, *self.command), cwd=folder)
        self.url = url_of(self.program)

    def get(self, path: str) -> Tuple[int, str]:
        return get(self.url + path)


def url_of(server: Program) -> str:
    port = server.read_until("Serving HTTP on").partition("port ")[2].split()[0]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def files(run_program: Callable[..., Program], tmp_path: Path) -> Files:
    return Files(run_program, tmp_path)


def test_a_probe_script_logs_times_and_answers_requests_until_ctrl_c(files: Files, run_program: Callable[..., Program]) -> None:
    assert files.get("/hello.txt") == (200, "hello")
    assert files.get("/hidden")[0] == 404
    probe = run_program(PROBE, name="probe.py")
    probe.read_until("Ctrl-C ends it")
    assert files.get("/hello.txt") == (200, "hello")
    assert probe.read_line() == f"before /hello.txt {files.program.pid}"
    assert probe.read_line() == "after /hello.txt True"
    assert files.get("/hidden") == (200, "written by another process")
    assert probe.read_until("after") == "after /hidden True"
    probe.signal(signal.SIGINT)
    assert probe.wait() == 0
    assert files.get("/hidden")[0] == 404
    assert files.get("/hello.txt") == (200, "hello")


def test_a_plain_manager_answers_requests_of_the_server(files: Files) -> None:
    seen: List[str] = []
    with Manager(discovery.find("files")[0].address) as manager:
        manager.register(f"before:{DO_GET}", lambda handler: seen.append(handler.path))
        manager.register(DO_GET, lambda handler: handler.send_error(410, "Gone"))
        assert files.get("/hello.txt")[0] == 410
        assert seen == ["/hello.txt"]
    assert files.get("/hello.txt") == (200, "hello")


def test_the_server_ends_by_ctrl_c_with_its_usual_status_and_words(
    files: Files, run_program: Callable[..., Program], runtime_dir: Path
) -> None:
    alone = run_program(command=files.command)
    ends = []
    with xpc_instrument.connect("files") as session:
        session.around(DO_GET, lambda call: call.proceed())
        for server, url in ((alone, url_of(alone)), (files.program, files.url)):
            assert get(f"{url}/hello.txt") == (200, "hello")
            server.signal(signal.SIGINT)
            ends.append((server.wait(), server.output[-1]))
    assert ends[0] == ends[1]
    assert os.listdir(runtime_dir) == []


def test_a_hook_may_send_a_request_to_the_application_that_waits_for_it(files: Files) -> None:
    with xpc_instrument.connect("files") as session:

        @session.around(DO_GET)
        def nested(call: Any) -> Any:
            if call.instance.path != "/outer":
                return call.proceed()
            call.instance.send_response(200)
            call.instance.end_headers()
            return call.instance.wfile.write(f"inner says {files.get('/hello.txt')[1]}".encode())

        assert files.get("/outer") == (200, "inner says hello")


# FastAPI under uvicorn ---------------------------------------------------------------------------------------------------

WEB = """
import os
from fastapi import Depends, FastAPI

app = FastAPI()
closed = []

async def connection():
    try:
        yield "connection"
    finally:
        closed.append(1)

@app.get("/sync/{n}")
def price(n: int):
    return {"from": "price", "n": n, "pid": os.getpid()}

@app.get("/async/{n}")
async def quote(n: int):
    return {"from": "quote", "n": n, "pid": os.getpid()}

@app.get("/stored")
async def stored(connection=Depends(connection)):
    return {"connection": connection, "closed": len(closed)}

@app.get("/ping")
async def ping():
    return {"pid": os.getpid()}
"""


class Web:
    """FastAPI under uvicorn."""

    def __init__(self, run_program: Callable[..., Program], folder: Path, *options: str) -> None:
        pytest.importorskip("fastapi", reason="fastapi is not installed")
        pytest.importorskip("uvicorn", reason="uvicorn is not installed")
        (folder / "web.py").write_text(WEB)
        (folder / "xpc-instrument.toml").write_text('app = "web"\n[defaults]\ntimeout = 20.0\n[[probe]]\ntarget = "web:*"\n')
        words = [*RUN, "--", sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "0", *options, "web:app"]
        self.program = run_program(command=words, cwd=folder)
        # The log's last word is about the address with one process, and about the start of the application with several.
        self.url = ""
        complete = 0
        while not self.url or complete < (2 if "--workers" in options else 1):
            line = self.program.read_line()
            complete += "startup complete" in line
            if "running on " in line:
                self.url = line.partition("running on ")[2].split()[0]
        self.await_listening()

    def await_listening(self) -> None:
        """A worker says that it is ready a moment before it listens, and nothing when it does: knock until it opens."""
        deadline = time.monotonic() + PATIENCE
        address = urllib.parse.urlsplit(self.url)
        while time.monotonic() < deadline:
            try:
                socket.create_connection((address.hostname, address.port)).close()
            except ConnectionRefusedError:
                continue
            return
        raise AssertionError(f"nothing listens at {self.url}:\n{self.program.text}")

    def get(self, path: str) -> Any:
        return get_json(self.url + path)

    def end(self) -> None:
        self.program.signal(signal.SIGINT)
        self.program.wait()


def test_sync_and_async_endpoints_are_hooked_in_all_modes(run_program: Callable[..., Program], tmp_path: Path) -> None:
    web = Web(run_program, tmp_path)
    for target, path in (("web:price", "/sync/3"), ("web:quote", "/async/3")):
        seen: List[Any] = []
        original = web.get(path)
        with xpc_instrument.connect("web") as session:
            session.before(target, lambda call: seen.append(("before", call.arguments)))  # noqa: B023
            session.after(target, lambda call: seen.append(("after", call.result["n"])))  # noqa: B023
            assert web.get(path) == original
            assert seen == [("before", {"n": 3}), ("after", 3)]
            session.around(target, lambda call: {**call.proceed(), "n": call.arguments["n"] + 1})
            assert web.get(path) == {**original, "n": 4}
            session.instead(target, lambda n: {"n": n * 10})
            assert web.get(path) == {"n": 30}
        assert web.get(path) == original
    web.end()


def test_an_async_generator_dependency_is_hooked_and_still_cleans_up(run_program: Callable[..., Program], tmp_path: Path) -> None:
    web = Web(run_program, tmp_path)
    seen: List[str] = []
    assert web.get("/stored") == {"connection": "connection", "closed": 0}
    with xpc_instrument.connect("web") as session:
        session.before("web:connection", lambda call: seen.append("before"))
        session.after("web:connection", lambda call: seen.append("after"))
        around = session.around("web:connection", lambda call: call.proceed())
        assert web.get("/stored")["connection"] == "connection"
        around.remove()
        stand_in = session.instead("web:connection", lambda: ["stand-in"])
        assert web.get("/stored")["connection"] == "stand-in"
        stand_in.remove()
        assert web.get("/stored")["connection"] == "connection"
    assert seen[:5] == ["before", "after"] * 2 + ["before"]
    # The original ran three times before, and has cleaned up after each.
    assert web.get("/stored")["closed"] == 3
    web.end()


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_many_requests_at_once_are_all_hooked(run_program: Callable[..., Program], tmp_path: Path, options: Tuple[str, ...]) -> None:
    web = Web(run_program, tmp_path, *options)
    paths = [f"/{kind}/{n}" for n in range(60) for kind in ("sync", "async")]
    with xpc_instrument.connect("web") as session, ThreadPoolExecutor(12) as pool:
        for target in ("web:price", "web:quote"):
            session.around(target, lambda call: {**call.proceed(), "hooked": call.arguments["n"]})
        answers = list(pool.map(web.get, paths))
        assert [answer["hooked"] for answer in answers] == [n for n in range(60) for _ in range(2)]
        assert [answer["n"] for answer in answers] == [n for n in range(60) for _ in range(2)]
        assert {answer["pid"] for answer in answers} <= set(session.pids)
    assert "failed" not in web.program.text
    assert all("hooked" not in web.get(path) for path in paths[:8])
    web.end()


def test_a_slow_hook_does_not_block_the_event_loop(run_program: Callable[..., Program], tmp_path: Path) -> None:
    web = Web(run_program, tmp_path)
    inside, leave = threading.Event(), threading.Event()

    def slow(call: Any) -> Any:
        inside.set()
        wait_for(leave)
        return call.proceed()

    with xpc_instrument.connect("web") as session, ThreadPoolExecutor(1) as pool:
        session.around("web:quote", slow)
        waiting = pool.submit(web.get, "/async/1")
        wait_for(inside)
        try:
            assert web.get("/ping") == {"pid": web.program.pid}
            assert web.get("/sync/2")["n"] == 2
            assert not waiting.done()
        finally:
            leave.set()
        assert waiting.result(PATIENCE)["n"] == 1
    web.end()


# reloaders ---------------------------------------------------------------------------------------------------------------


def touch_until(program: Program, path: Path, word: str) -> str:
    """Change the time of a file until the reloader has noticed: nobody says when it has looked at the file for the first time."""
    now = path.stat().st_mtime
    for later in range(1, 40):
        os.utime(path, (now + 10 * later, now + 10 * later))
        try:
            return program.read_until(word, 1.0)
        except AssertionError:
            if program.process.poll() is not None:
                raise
    raise AssertionError(f"the reloader does not look at {path}:\n{program.text}")


def test_what_the_reloader_of_uvicorn_starts_is_hooked(run_program: Callable[..., Program], tmp_path: Path) -> None:
    web = Web(run_program, tmp_path, "--reload")
    before = web.get("/ping")["pid"]
    with xpc_instrument.connect("web") as session:
        session.around("web:quote", lambda call: {**call.proceed(), "hooked": True})
        assert web.get("/async/1") == {"from": "quote", "n": 1, "pid": before, "hooked": True}
        touch_until(web.program, tmp_path / "web.py", "Shutting down")
        web.program.read_until("startup complete")
        web.await_listening()
        answer = web.get("/async/2")
        assert answer["hooked"] is True
        assert answer["pid"] != before
    assert "hooked" not in web.get("/async/3")
    web.end()


FLASK = """
import os
from flask import Flask

app = Flask(__name__)

@app.get("/price")
def price():
    return {"pid": os.getpid()}
"""


def test_what_the_reloader_of_flask_starts_is_hooked(run_program: Callable[..., Program], tmp_path: Path) -> None:
    pytest.importorskip("flask", reason="flask is not installed")
    (tmp_path / "web.py").write_text(FLASK)
    port = find_free_port("127.0.0.1")
    words = ["--app", "web", "run", "--debug", "--host", "127.0.0.1", "--port", str(port)]
    program = run_program(
        command=[*RUN, "--app", "flask", "--probe", "web:price", "--", sys.executable, "-m", "flask", *words], cwd=tmp_path
    )
    program.read_until("Debugger PIN")
    url = f"http://127.0.0.1:{port}/price"
    before = get_json(url)["pid"]
    assert before != program.pid
    with xpc_instrument.connect("flask") as session:
        session.around("web:price", lambda call: {**call.proceed(), "hooked": True})
        assert get_json(url) == {"pid": before, "hooked": True}
        touch_until(program, tmp_path / "web.py", "reloading")
        program.read_until("Debugger PIN")
        answer = get_json(url)
        assert answer["hooked"] is True
        assert answer["pid"] != before
    # As a terminal does: to the reloader and to what it has started.
    os.killpg(program.pid, signal.SIGINT)
    program.wait()
    assert wait_for_exit(answer["pid"])


# pip ---------------------------------------------------------------------------------------------------------------------

PIP_ENV = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COLOR": "1", "PIP_NO_INPUT": "1"}
PIP_PROBES = ["--probe", "pip._internal.cli.main:main", "--probe", "pip._internal.cli.*:*", "--probe", "pip._internal.commands.list:*"]


@pytest.mark.parametrize("words", [["list", "--format=json"], ["no-such-command"]], ids=" ".join)
def test_pip_under_probes_says_and_returns_the_same(tmp_path: Path, words: List[str]) -> None:
    pytest.importorskip("pip", reason="pip is not installed")

    def outcome(*prefix: str) -> Tuple[int, str, str]:
        command = [*prefix, sys.executable, "-m", "pip", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **PIP_ENV}, timeout=PATIENCE)
        return done.returncode, done.stdout, done.stderr

    assert outcome(*RUN, "--app", "pip", *PIP_PROBES, "--") == outcome()


def test_a_function_of_pip_is_hooked_in_a_process_that_starts_after_the_hook(run_program: Callable[..., Program], tmp_path: Path) -> None:
    pytest.importorskip("pip", reason="pip is not installed")
    prefix = [*RUN, "--app", "pip", "--probe", "pip._internal.cli.main:main", "--"]
    # A session needs one process to begin with; those of the same name that start later are joined before they run.
    first = run_program(command=[*prefix, sys.executable, "-c", "print('ready', flush=True); input()"], cwd=tmp_path)
    first.read_until("ready")
    with xpc_instrument.connect("pip", all=True) as session:
        session.instead("pip._internal.cli.main:main", lambda args=None: print("never seen here") or 23)
        done = subprocess.run([*prefix, sys.executable, "-m", "pip", "--version"], cwd=tmp_path, env={**os.environ, **PIP_ENV}, timeout=20)
        assert done.returncode == 23
    first.send_line()
    assert first.wait() == 0


# concurrent.futures ------------------------------------------------------------------------------------------------------

POOL = """
import os, sys, threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import pay

def work(n):
    return pay.charge(n), os.getpid()

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    # Started before the threads: to fork beside a thread is an application's own risk.
    with ProcessPoolExecutor(2) as processes:
        answers = list(processes.map(work, range(4)))
    with ThreadPoolExecutor(4) as threads:
        answers += threads.map(work, range(4, 40))
    print("=>", [answer for answer, _ in answers], len({pid for _, pid in answers} - {os.getpid()}) > 0, flush=True)
"""


def test_pools_of_processes_and_of_threads_are_hooked(run_program: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "pay.py").write_text("def charge(n):\n    return n\n")
    (tmp_path / "main.py").write_text(POOL)
    program = run_program(command=[*RUN, "--app", "pay", "--probe", "pay:charge", "--", sys.executable, "main.py"], cwd=tmp_path)
    program.read_until("ready")
    with xpc_instrument.connect("pay") as session:
        session.around("pay:charge", lambda call: -call.proceed())
        program.send_line()
        assert program.read_until("=>") == f"=> {[-n for n in range(40)]} True"
        assert program.wait() == 0
    discovery.processes()


# another environment -----------------------------------------------------------------------------------------------------


def test_a_console_script_of_another_virtual_environment_is_hooked(run_program: Callable[..., Program], tmp_path: Path) -> None:
    import cloudpickle
    import wrapt

    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(other)], check=True, timeout=PATIENCE)
    (packages,) = other.glob("lib/python*/site-packages")
    modules = [xpc_agent, xpc_instrument, cloudpickle, wrapt]
    if sys.version_info < (3, 11):
        import tomli

        modules.append(tomli)
    # As an installation would, but without a network.
    folders = {str(Path(str(module.__file__)).parents[1]) for module in modules}
    (packages / "borrowed.pth").write_text("".join(f"{folder}\n" for folder in sorted(folders)))
    (packages / "tool.py").write_text("def work(n):\n    return n + 1\n")
    script = other / "bin" / "tool"
    script.write_text(
        f"#!{other}/bin/python\nimport sys, tool\nprint(sys.prefix, flush=True)\n"
        "for line in sys.stdin:\n    if not line.strip():\n        break\n    print(tool.work(int(line)), flush=True)\n"
    )
    script.chmod(0o755)
    env: Dict[str, str] = {"PATH": f"{other}/bin{os.pathsep}{os.environ['PATH']}"}
    program = run_program(command=[*RUN, "--app", "tool", "--probe", "tool:work", "--", "tool"], cwd=tmp_path, env=env)
    assert program.read_line() == str(other)
    with xpc_instrument.connect("tool") as session:
        session.around("tool:work", lambda call: call.proceed() * 100)
        program.send_line("1")
        assert program.read_line() == "200"
    program.send_line("1")
    assert program.read_line() == "2"
    program.send_line("")
    assert program.wait() == 0
