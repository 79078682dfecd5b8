"""Applications whose greenlets gevent or eventlet switches, patched before the agent is imported ("early") or after it runs ("late").

The server is a real one of the library; a hook that waits for all requests at once is reached by all only if the hub goes on meanwhile.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import instrumented
from tests.integration.fault_fixture import PATIENT, holds_no_memory, is_busy
from tests.integration.faults.test_fail_open import failures
from tests.integration.processes.test_real_applications import RUN, get
from tests.programs import PATIENCE, Program, children, wait_for
from xpc_instrument import find_free_port
from xpc_instrument.core.wire.memory import why_plain

SHOP = """
import threading, time

opened = threading.Event()

def price(n):
    return f"price {n}"

def hold(n):
    opened.wait(20)
    return f"held {price(n)}"

def tax(n):
    return f"tax {n}"

class Till:
    def __init__(self, n):
        self.n = n

    def look(self):
        opened.wait(20)
        return f"till {self.n}"

    def count(self):
        return self.n
"""

SERVER = """
import os, signal, sys, threading, time, warnings
library, when = sys.argv[1:3]
warnings.simplefilter("ignore")
if library == "gevent":
    import gevent, gevent.monkey
    gevent.monkey.patch_all()
    from gevent import spawn, sleep, GreenletExit
    from gevent.pywsgi import WSGIServer
else:
    import eventlet, eventlet.wsgi
    eventlet.monkey_patch()
    from eventlet import spawn, sleep
    from greenlet import GreenletExit
if when == "early":
    import logging
    logging.basicConfig(format="%(name)s: %(message)s")
    import xpc_agent
    xpc_agent.start()

import shop

waiting = []

def interrupted(n):
    try:
        return shop.price(n)
    except GreenletExit:
        print("left", n, flush=True)
        return "left"

def answer(what, n):
    if what in ("price", "hold", "tax"):
        return getattr(shop, what)(n)
    if what == "look":
        return str(shop.Till(n).count())
    if what == "open":
        shop.opened.set()
        return "opened"
    if what == "background":
        waiting.append(spawn(interrupted, n))
        return "spawned"
    if what == "kill":
        waiting.pop().kill()
        return "killed"
    if what == "fork":
        pid = os.fork()
        if not pid:
            print("child", shop.tax(n), flush=True)
            os._exit(7)
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    if what == "hub":
        from gevent import event, get_hub
        done = event.AsyncResult()
        get_hub().loop.run_callback(lambda: done.set(shop.price(n)))
        return done.get()
    if what == "thread":
        if library == "gevent":
            return gevent.get_hub().threadpool.apply(shop.price, (n,))
        from eventlet import tpool
        return tpool.execute(shop.price, n)
    return "alive"

def app(environ, start_response):
    what, _, n = environ["PATH_INFO"].strip("/").partition("/")
    body = answer(what, int(n or 0)).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

if library == "gevent":
    server = WSGIServer(("127.0.0.1", 0), app, log=None)
    server.start()
    print("port", server.server_port, flush=True)
    server.serve_forever()
else:
    listener = eventlet.listen(("127.0.0.1", 0))
    print("port", listener.getsockname()[1], flush=True)
    eventlet.wsgi.server(listener, app, log_output=False)
"""

# Each library once on every version of Python; the other ways on the oldest.
ALL = [
    pytest.param(("gevent", "early"), id="gevent-early", marks=pytest.mark.version),
    pytest.param(("gevent", "late"), id="gevent-late"),
    pytest.param(("eventlet", "early"), id="eventlet-early"),
    pytest.param(("eventlet", "late"), id="eventlet-late", marks=pytest.mark.version),
]


def need(library: str) -> None:
    """Skip the test, by name, where the library is not installed."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


class Server:
    """The shop, served by gevent.pywsgi or eventlet.wsgi."""

    def __init__(self, run_program: Callable[..., Program], folder: Path, library: str, when: str, settings: str = "") -> None:
        (folder / "shop.py").write_text(SHOP)
        (folder / "server.py").write_text(SERVER)
        settings = settings or "[defaults]\ntimeout = 20.0"
        config = folder / "xpc-instrument.toml"
        config.write_text(f'app = "shop"\n{settings}\n[[probe]]\ntarget = "shop:*"\n')
        self.library = library
        command = [sys.executable, "server.py", library, when]
        self.program = run_program(command=command if when == "early" else instrumented(config, *command), cwd=folder)
        self.url = f"http://127.0.0.1:{self.program.read_until('port ').split()[1]}"

    def get(self, path: str) -> str:
        status, body = get(f"{self.url}/{path}")
        assert status == 200, body
        return body

    def get_all(self, paths: List[str]) -> List[str]:
        """The answers to requests that are under way at the same time."""
        with ThreadPoolExecutor(len(paths)) as pool:
            return list(pool.map(self.get, paths))


@pytest.fixture(params=ALL)
def start(request: Any, run_program: Callable[..., Program], tmp_path: Path) -> Callable[..., Server]:
    """Starts the server of one library, patched early or late: `start(settings)`."""
    library, when = request.param
    need(library)
    return lambda settings="": Server(run_program, tmp_path, library, when, settings)


def test_requests_at_once_reach_the_hook_at_once_while_the_hub_serves_others(start: Callable[..., Server]) -> None:
    server = start()
    together = threading.Barrier(8)
    seen: List[Any] = []

    def before(call: Any) -> None:
        together.wait(PATIENCE)
        seen.append(call.args[0])

    def after(call: Any) -> None:
        together.wait(PATIENCE)
        seen.append(call.result)

    def around(call: Any) -> str:
        together.wait(PATIENCE)
        return f"around {call.proceed()}"

    def instead(n: int) -> str:
        together.wait(PATIENCE)
        return f"instead {n}"

    prefixes = {"before": "price", "after": "price", "around": "around price", "instead": "instead"}
    with xpc_instrument.connect("shop") as session, ThreadPoolExecutor(8) as pool:
        for hook in (before, after, around, instead):
            with getattr(session, hook.__name__)("shop:price", hook):
                first = [pool.submit(server.get, f"price/{n}") for n in range(7)]
                # The seven wait for this one.
                assert server.get("alive") == "alive"
                first.append(pool.submit(server.get, "price/7"))
                answers = [future.result(PATIENCE) for future in first]
                assert answers == [f"{prefixes[hook.__name__]} {n}" for n in range(8)]
        assert sorted(seen, key=str) == [*range(8), *(f"price {n}" for n in range(8))]
        assert failures("shop:price") == {}
    assert server.get_all([f"price/{n}" for n in range(8)]) == [f"price {n}" for n in range(8)]


def test_a_hook_may_send_a_request_to_the_server_whose_greenlet_waits_for_it(start: Callable[..., Server]) -> None:
    server = start()
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:tax", lambda n: f"hooked tax {n}")
        session.around("shop:price", lambda call: f"{call.proceed()}, {server.get('tax/2')}")
        assert server.get("price/1") == "price 1, hooked tax 2"


def test_a_greenlet_that_does_our_work_or_runs_the_original_does_not_keep_hooks_from_others(start: Callable[..., Server]) -> None:
    server = start()
    reached = threading.Event()
    looking = threading.Event()

    def hold(call: Any) -> Any:
        reached.set()
        return f"hooked {call.proceed()}"

    def count(call: Any) -> Any:
        looking.set()
        return call.instance.look()

    with xpc_instrument.connect("shop") as session:
        session.around("shop:hold", hold)
        session.around("shop:Till.count", count)
        session.around("shop:price", lambda call: f"hooked {call.proceed()}")
        with ThreadPoolExecutor(2) as pool:
            # One greenlet is in `proceed`, the other answers a reference: both wait, and the thread goes on.
            held = pool.submit(server.get, "hold/1")
            looked = pool.submit(server.get, "look/2")
            wait_for(reached)
            wait_for(looking)
            assert server.get_all(["price/3"] * 4) == ["hooked price 3"] * 4
            assert server.get("open") == "opened"
            # What is called within the original is hooked too.
            assert held.result(PATIENCE) == "hooked held hooked price 1"
            assert looked.result(PATIENCE) == "till 2"
        assert server.get("price/4") == "hooked price 4"


def test_a_hook_that_does_not_answer_fails_open_at_its_deadline_and_the_server_answers_meanwhile(start: Callable[..., Server]) -> None:
    server = start("[defaults]\ntimeout = 0.5")
    reached, go_on = threading.Event(), threading.Event()

    def stuck(call: Any) -> None:
        reached.set()
        go_on.wait(PATIENCE)

    with xpc_instrument.connect("shop") as session:
        session.before("shop:price", stuck)
        try:
            with ThreadPoolExecutor(4) as pool:
                late = [pool.submit(server.get, f"price/{n}") for n in range(4)]
                wait_for(reached)
                assert server.get("tax/1") == "tax 1"
                assert [future.result(PATIENCE) for future in late] == [f"price {n}" for n in range(4)]
            assert failures("shop:price") == {"timeout": 4}
        finally:
            go_on.set()


def test_greenlets_wait_for_a_free_lane_and_let_the_others_run(start: Callable[..., Server]) -> None:
    server = start("[defaults]\ntimeout = 20.0\n[limits]\nmax-lanes = 2")
    both, go_on = threading.Barrier(3), threading.Event()

    def slow(call: Any) -> str:
        if not go_on.is_set():
            both.wait(PATIENCE)
            wait_for(go_on)
        return f"hooked {call.proceed()}"

    with xpc_instrument.connect("shop") as session:
        session.around("shop:price", slow)
        with ThreadPoolExecutor(20) as pool:
            answers = [pool.submit(server.get, f"price/{n}") for n in range(20)]
            both.wait(PATIENCE)
            assert server.get("tax/1") == "tax 1"
            go_on.set()
            assert [future.result(PATIENCE) for future in answers] == [f"hooked price {n}" for n in range(20)]
        assert failures("shop:price") == {}


def test_a_script_that_dies_lets_all_greenlets_go_on(start: Callable[..., Server], run_program: Callable[..., Program]) -> None:
    server = start()
    script = run_program(
        "import threading, xpc_instrument\n"
        "app = xpc_instrument.connect('shop')\n"
        "app.before('shop:price', lambda call: print('reached\\n', end='', flush=True) or threading.Event().wait())\n"
        "print('ready', flush=True)\napp.run()\n",
        name="script.py",
    )
    script.read_until("ready")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.get, f"price/{n}") for n in range(4)]
        for _ in range(4):
            script.read_until("reached")
        script.kill()
        assert [future.result(PATIENCE) for future in answers] == [f"price {n}" for n in range(4)]


def test_a_greenlet_that_is_killed_while_it_waits_leaves_at_once(start: Callable[..., Server]) -> None:
    server = start()
    reached, go_on = threading.Event(), threading.Event()

    def stuck(call: Any) -> None:
        reached.set()
        go_on.wait(PATIENCE)

    with xpc_instrument.connect("shop") as session:
        handle = session.before("shop:price", stuck)
        try:
            server.get("background/5")
            wait_for(reached)
            server.get("kill")
            server.program.read_until("left 5")
        finally:
            go_on.set()
        assert failures("shop:price") == {"interrupted": 1}
        handle.remove()
        session.instead("shop:price", lambda n: f"hooked {n}")
        assert server.get("price/1") == "hooked 1"


def test_a_child_that_a_greenlet_forks_while_others_wait_for_a_hook_is_hooked_and_ends(start: Callable[..., Server]) -> None:
    server = start()
    reached, go_on = threading.Semaphore(0), threading.Event()

    def stuck(call: Any) -> None:
        reached.release()
        go_on.wait(PATIENCE)

    with xpc_instrument.connect("shop") as session:
        session.before("shop:price", stuck)
        session.around("shop:tax", lambda call: f"hooked {call.proceed()}")
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(server.get, f"price/{n}") for n in range(3)]
            try:
                for _ in waiting:
                    assert reached.acquire(timeout=PATIENCE)
                # The hub of the child watches descriptors that are its parent's, and closed.
                assert server.get("fork/3") == "7"
                server.program.read_until("child hooked tax 3")
            finally:
                go_on.set()
            assert [future.result(PATIENCE) for future in waiting] == [f"price {n}" for n in range(3)]
        assert failures("shop:price") == {}


def test_a_thread_of_its_own_beside_the_hub_waits_as_threads_do(start: Callable[..., Server]) -> None:
    server = start()
    together = threading.Barrier(2)
    with xpc_instrument.connect("shop") as session:

        @session.around("shop:price")
        def both(call: Any) -> str:
            together.wait(PATIENCE)
            return f"hooked {call.proceed()}"

        assert server.get_all(["thread/1", "price/2"]) == ["hooked price 1", "hooked price 2"]


def test_the_server_ends_by_ctrl_c_as_it_does_alone_while_greenlets_wait(
    start: Callable[..., Server], run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path
) -> None:
    server = start()
    alone = run_program(command=[sys.executable, "server.py", server.library, "never"], cwd=tmp_path)
    # It serves by then, and is not on its way to it.
    assert get(f"http://127.0.0.1:{alone.read_until('port ').split()[1]}/alive") == (200, "alive")
    reached, go_on = threading.Event(), threading.Event()

    def stuck(call: Any) -> None:
        reached.set()
        go_on.wait(PATIENCE)

    with xpc_instrument.connect("shop") as session:
        session.before("shop:price", stuck)
        server.get("background/1")
        wait_for(reached)
        ends = []
        for program in (alone, server.program):
            program.signal(signal.SIGINT)
            ends.append((program.wait(), program.output[-1]))
        go_on.set()
    assert ends[0][0] == ends[1][0]
    assert [name for name in os.listdir(runtime_dir) if f".{server.program.pid}." in name] == []


# gevent only -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [pytest.param("early", marks=pytest.mark.version), "late"])
def test_a_callback_of_the_hub_itself_waits_as_threads_do(run_program: Callable[..., Program], tmp_path: Path, when: str) -> None:
    need("gevent")
    server = Server(run_program, tmp_path, "gevent", when)
    with xpc_instrument.connect("shop") as session:
        session.around("shop:price", lambda call: f"hooked {call.proceed()}")
        assert server.get("hub/1") == "hooked price 1"
        assert server.get_all(["price/2"] * 4) == ["hooked price 2"] * 4


# Threads of the operating system have lanes that get hot, before there is a hub or beside it; greenlets use them too, and never look into
# memory: whoever looks keeps the thread from all others. What greenlets say may go through memory where the script is awake, so one frame
# of a call at most; a thread that is awake gets its answer there too.
HOT = """
import json, os, sys, threading, time, warnings
warnings.simplefilter("ignore")
import gevent, gevent.monkey
if sys.argv[1] == "patched first":
    gevent.monkey.patch_all()
import shop, xpc_agent

def frames():
    return sum(one.frames for one in xpc_agent.lanes())

def calls(count):
    # How many frames went through memory for so many calls that followed each other, what came of them, and how often others ran meanwhile.
    before = frames()
    seen = sorted({shop.price(1) for _ in range(count)})
    return frames() - before, seen

def heat():
    seen = []
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        seen.append(calls(100))
        if seen[-1][0] > 150:
            break
    return seen[-1]

def in_main_thread_before_the_hub():
    assert gevent._hub_local.get_hub_if_exists() is None
    return heat()

def in_greenlet():
    return calls(300)

def in_greenlets():
    jobs = [gevent.spawn(calls, 50) for _ in range(8)]
    gevent.joinall(jobs)
    return sum(job.value[0] for job in jobs) // 8, sorted({answer for job in jobs for answer in job.value[1]})

def in_thread():
    return gevent.get_hub().threadpool.apply(heat)

def both():
    # A thread whose lane is hot, and greenlets of the hub beside it.
    job = gevent.get_hub().threadpool.spawn(calls, 500)
    found = in_greenlets()
    return job.get()[1], found[1]

def together():
    # Each is waited for by the hook until all are there.
    jobs = [gevent.spawn(shop.tax, n) for n in range(4)]
    gevent.joinall(jobs)
    return [job.value for job in jobs]

def fork():
    pid = os.fork()
    if not pid:
        os._exit(7 if calls(50)[1] == ["hooked 1"] else 1)
    return os.waitpid(pid, 0)[1] >> 8

print("ready", flush=True)
while True:
    line = sys.stdin.readline().strip()
    if line == "patch":
        gevent.monkey.patch_all()
        print("=> null", flush=True)
    elif line == "hub":
        # From here on lines are read in a thread, and the hub runs meanwhile.
        gevent.get_hub()
        print("=> null", flush=True)
        break
    else:
        print("=> " + json.dumps(globals()[line]()), flush=True)
while True:
    line = gevent.get_hub().threadpool.apply(sys.stdin.readline).strip()
    if not line:
        break
    print("=> " + json.dumps(globals()[line]()), flush=True)
"""


class Hot:
    """An application with lanes that threads make hot, patched by gevent before its agent's first call or after it."""

    def __init__(self, run_program: Callable[..., Program], folder: Path, way: str) -> None:
        (folder / "shop.py").write_text(SHOP)
        (folder / "hot.py").write_text(HOT)
        settings = f"[defaults]\ntimeout = 20.0\n[limits]\n{PATIENT}"
        (folder / "xpc-instrument.toml").write_text(f'app = "shop"\n{settings}\n[[probe]]\ntarget = "shop:*"\n')
        words = instrumented(folder / "xpc-instrument.toml", sys.executable, "hot.py", way)
        self.program = run_program(command=words, cwd=folder)
        self.program.read_until("ready")

    def ask(self, what: str) -> Any:
        self.program.send_line(what)
        return json.loads(self.program.read_until("=> ").split("=> ", 1)[1])

    def heats(self, what: str) -> bool:
        """Have a thread call until its lane is hot; False if other programs keep the processors busy."""
        frames, seen = self.ask(what)
        assert seen == ["hooked 1"]
        assert frames > 150 or is_busy()
        return bool(frames > 150)

    def end(self) -> None:
        self.program.send_line("")
        assert self.program.wait() == 0
        assert "Traceback" not in self.program.text


needs_hot = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")


@needs_hot
@pytest.mark.parametrize("way", [pytest.param("patched first", marks=pytest.mark.version), "patched later", "never patched"])
def test_greenlets_use_lanes_that_their_thread_made_hot_before_it_had_a_hub_and_never_look_into_memory(
    run_program: Callable[..., Program], tmp_path: Path, way: str
) -> None:
    need("gevent")
    app = Hot(run_program, tmp_path, way)
    four = threading.Barrier(4)
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:price", lambda n: f"hooked {n}")
        session.around("shop:tax", lambda call: (four.wait(PATIENCE) and None) or f"hooked {call.proceed()}")
        app.heats("in_main_thread_before_the_hub")
        if way == "patched later":
            app.ask("patch")
        app.ask("hub")
        for _ in range(2):
            # The very lane that is hot, and others.
            assert app.ask("together") == [f"hooked tax {n}" for n in range(4)]
            # Each of eight counts what all of them send meanwhile.
            for what, calls in (("in_greenlet", 300), ("in_greenlets", 8 * 50)):
                frames, seen = app.ask(what)
                assert seen == ["hooked 1"]
                assert frames <= calls
        assert failures("shop:price") == failures("shop:tax") == {}
    holds_no_memory(app.program.pid)
    app.end()


@needs_hot
@pytest.mark.parametrize("way", ["patched first", pytest.param("never patched", marks=pytest.mark.version)])
def test_a_thread_of_the_pool_has_hot_lanes_while_greenlets_use_them_too(
    run_program: Callable[..., Program], tmp_path: Path, way: str
) -> None:
    need("gevent")
    app = Hot(run_program, tmp_path, way)
    four = threading.Barrier(4)
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:price", lambda n: f"hooked {n}")
        session.around("shop:tax", lambda call: (four.wait(PATIENCE) and None) or f"hooked {call.proceed()}")
        app.ask("hub")
        for _ in range(2):
            app.heats("in_thread")
            frames, seen = app.ask("in_greenlets")
            assert seen == ["hooked 1"]
            assert frames <= 8 * 50
            assert app.ask("together") == [f"hooked tax {n}" for n in range(4)]
            assert app.ask("both") == [["hooked 1"], ["hooked 1"]]
        assert app.ask("fork") == 7
        app.heats("in_thread")
        assert failures("shop:price") == failures("shop:tax") == {}
    holds_no_memory(app.program.pid)
    app.end()


GUNICORN = """
import os, shop

def app(environ, start_response):
    body = f"{os.getpid()} {shop.price(1)}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


def test_the_workers_of_gunicorn_under_gevent_are_all_hooked(run_program: Callable[..., Program], tmp_path: Path) -> None:
    need("gevent")
    need("gunicorn")
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "web.py").write_text(GUNICORN)
    port = find_free_port("127.0.0.1")
    words = ["gunicorn", "-k", "gevent", "-w", "2", "-b", f"127.0.0.1:{port}", "--graceful-timeout", "5", "web:app"]
    probe = ["--app", "shop", "--probe", "shop:price", "--"]
    arbiter = run_program(command=[*RUN, *probe, sys.executable, "-m", *words], cwd=tmp_path)
    for _ in range(2):
        arbiter.read_until("Booting worker")
    workers = {str(pid) for pid in children(arbiter.pid)}
    url = f"http://127.0.0.1:{port}/"
    get(url)
    seen = set()
    with xpc_instrument.connect("shop") as session:
        # Eight at once, in two workers: each has some, and is asked again until both have been seen.
        session.around("shop:price", lambda call: f"hooked {call.proceed()}")
        while seen != workers:
            with ThreadPoolExecutor(8) as pool:
                for status, body in pool.map(get, [url] * 8):
                    assert status == 200, body
                    assert body.split(" ", 1)[1] == "hooked price 1"
                    seen.add(body.split()[0])
    assert get(url)[1].split(" ", 1)[1] == "price 1"
    arbiter.signal(signal.SIGTERM)
    assert arbiter.wait() == 0
    assert "Traceback" not in arbiter.text


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_processes_that_share_one_address_are_hooked(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path, library: str
) -> None:
    need(library)
    settings = f'[manager]\naddress = "unix:{runtime_dir}/fixed.sock"\n[defaults]\ntimeout = 20.0'
    host = Server(run_program, tmp_path, library, "early", settings)
    member = Server(run_program, tmp_path, library, "late", settings)
    with xpc_instrument.connect(f"unix:{runtime_dir}/fixed.sock") as session:
        together = threading.Barrier(4)

        @session.around("shop:price")
        def all_four(call: Any) -> str:
            together.wait(PATIENCE)
            return f"hooked {call.proceed()}"

        assert member.get_all([f"price/{n}" for n in range(4)]) == [f"hooked price {n}" for n in range(4)]
        assert host.get_all([f"price/{n}" for n in range(4)]) == [f"hooked price {n}" for n in range(4)]
    assert member.get("price/1") == host.get("price/1") == "price 1"


# what is patched ---------------------------------------------------------------------------------------------------------

PRIMITIVES = """
import json, sys
before = {name: getattr(__import__("_thread"), name) for name in ("allocate_lock", "start_new_thread", "get_ident")}
import select, socket
before.update(poll=select.poll, Socket=socket.socket)
{patch}
from xpc_instrument.core import unpatched as primitives
print(json.dumps([name for name, value in before.items() if getattr(primitives, name) is not value]))
"""


@pytest.mark.version
@pytest.mark.parametrize(
    ("library", "patch"),
    [
        ("gevent", "import gevent.monkey; gevent.monkey.patch_all()"),
        ("gevent", "import gevent.monkey"),
        ("gevent", ""),
    ],
)
def test_the_primitives_are_the_originals(run_program: Callable[..., Program], library: str, patch: str) -> None:
    need(library)
    program = run_program(PRIMITIVES.replace("{patch}", patch))
    assert json.loads(program.read_until("[")) == []
