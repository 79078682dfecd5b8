"""`python targets.py KIND FILE`: a program to attach to, which knows nothing of us.

It counts its work in FILE, in 8 bytes, a process that it has started in 8 others, and checks it: what is wrong ends it with a status of its
own, and so does what it needs and cannot be imported. In 8 bytes it says that it is ready (its pid), in others the port where it listens.
"""

import mmap
import os
import struct
import sys
import threading
import time

READY, PORT, NUMBER, END = 0, 8, 16, 4096
WRONG, MISSING = 99, 98
_counted = 0
_at = NUMBER
_memory = None


def tick():
    global _counted
    _counted += 1
    struct.pack_into("<Q", _memory, _at, _counted)


def count_apart():
    """In a process that was forked."""
    global _at, _counted
    _counted, _at = 0, NUMBER + 8 * (1 + os.getpid() % ((END - NUMBER) // 8 - 1))


def ready(port=0):
    struct.pack_into("<Q", _memory, PORT, port)
    struct.pack_into("<Q", _memory, READY, os.getpid())


def check(right):
    if not right:
        os._exit(WRONG)


def listening():
    import socket

    listener = socket.create_server(("127.0.0.1", 0), backlog=50)
    return listener, listener.getsockname()[1]


def answer(connection):
    tick()
    connection.sendall(b"ok")
    connection.close()


def accept():
    listener, port = listening()
    ready(port)
    while True:
        answer(listener.accept()[0])


def poll():
    import select

    listener, port = listening()
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    ready(port)
    while True:
        poller.poll()
        answer(listener.accept()[0])


def epoll():
    import selectors

    listener, port = listening()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    ready(port)
    while True:
        selector.select()
        answer(listener.accept()[0])


def http():
    import http.server

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            tick()
            super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready(server.server_address[1])
    server.serve_forever()


def asynchronous():
    import asyncio

    async def on(_, writer):
        tick()
        writer.write(b"ok")
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(on, "127.0.0.1", 0)
        ready(server.sockets[0].getsockname()[1])
        await asyncio.sleep(10**6)

    asyncio.run(main())


def short_sleeps():
    ready()
    while True:
        before = time.monotonic()
        time.sleep(0.002)
        check(time.monotonic() - before >= 0.002)
        tick()


def long_sleep():
    ready()
    while True:
        time.sleep(10**6)
        check(False)


def lock():
    held = threading.Lock()
    held.acquire()
    ready()
    held.acquire()
    check(False)


def full_pipe():
    """As a program whose output nobody reads."""
    _, writer = os.pipe()
    os.write(writer, bytes(1 << 16))
    ready()
    os.write(writer, b"x")
    check(False)


def timed_lock():
    held = threading.Lock()
    held.acquire()
    ready()
    while True:
        before = time.monotonic()
        check(not held.acquire(timeout=0.01))
        check(time.monotonic() - before >= 0.0099)
        tick()


def pause():
    import signal

    signal.signal(signal.SIGUSR1, lambda *_: None)
    ready()
    while True:
        signal.pause()
        tick()


def signal_wait():
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    ready()
    while True:
        check(signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1)
        tick()


def reads_input():
    ready()
    while True:
        check(input() == "line")
        tick()


def interval_timer():
    import signal

    signal.signal(signal.SIGALRM, lambda *_: tick())
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    ready()
    while True:
        time.sleep(1000)


def busy():
    ready()
    value = 0
    while True:
        for number in range(10_000):
            value = (value * 31 + number) & 0xFFFF
        tick()


def floats():
    """What is in the registers of the floating-point unit must be the same."""

    def work():
        value = 0.0
        for number in range(1, 20_000):
            value += 1.0 / (number * number) * (number % 7) ** 0.5
        return value

    wanted = work()
    ready()
    while True:
        check(work() == wanted)
        tick()


def allocating():
    import random

    kept = [None] * 1000
    ready()
    while True:
        for _ in range(2000):
            kept[random.randrange(1000)] = bytearray(random.randrange(100_000))
        tick()


def sorting():
    import random

    # One sort keeps the lock for some tens of milliseconds, and the agent's imports wait for it hundreds of times.
    numbers = [random.random() for _ in range(50_000)]
    wanted = sorted(numbers)
    ready()
    while True:
        check(sorted(numbers) == wanted)
        tick()


def matching():
    import re

    pattern = re.compile(r"(a+)+$")
    ready()
    while True:
        check(pattern.match("a" * 17 + "b") is None)
        tick()


def compressing():
    import hashlib
    import zlib

    data = os.urandom(20_000) + b"a" * 80_000
    wanted = hashlib.sha256(data).digest()

    def work():
        while True:
            check(zlib.decompress(zlib.compress(data)) == data and hashlib.sha256(data).digest() == wanted)
            tick()

    for _ in range(7):
        threading.Thread(target=work, daemon=True).start()
    ready()
    work()


def threads():
    def work():
        while True:
            tick()
            time.sleep(0)

    for _ in range(60):
        threading.Thread(target=time.sleep, args=(10**6,), daemon=True).start()
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    ready()
    work()


def numbers():
    import numpy

    matrix = numpy.random.rand(300, 300)
    wanted = (matrix @ matrix).sum()
    ready()
    while True:
        check(abs((matrix @ matrix).sum() - wanted) <= 1e-9 * abs(wanted))
        numpy.sort(matrix, axis=None)
        tick()


def forking():
    ready()
    while True:
        child = os.fork()
        if child == 0:
            import json.tool  # noqa: F401 - one that the agent may be importing

            os._exit(0)
        check(os.waitpid(child, 0)[1] == 0)
        tick()


def spawning():
    import subprocess

    ready()
    while True:
        check(subprocess.run(["true"], check=False).returncode == 0)
        tick()


def importing():
    import importlib

    ready()
    while True:
        for name in ("json.decoder", "json", "fractions", "decimal", "csv"):
            sys.modules.pop(name, None)
            importlib.import_module(name)
        tick()


def without_threading():
    """`threading` is imported by nobody but the agent; the end must not hang."""
    tick()
    ready()
    sys.stdin.readline()


def _square(number):
    if _at == NUMBER:
        count_apart()
    tick()
    return number * number


def process_pool():
    """Processes are forked with the first work; from Python 3.14 on only where that is asked for."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        check(list(pool.map(_square, range(8))) == [number * number for number in range(8)])
        ready()
        while True:
            check(list(pool.map(_square, range(8))) == [number * number for number in range(8)])
            time.sleep(0.001)


def _page(environ, start_response):
    tick()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def _gunicorn(**settings):
    from gunicorn.app.base import BaseApplication

    class Application(BaseApplication):
        def load_config(self):
            # For as long as it lives, no worker is missed.
            for name, value in {
                "bind": "127.0.0.1:0",
                "loglevel": "critical",
                "timeout": 600,
                "control_socket_disable": True,
                **settings,
            }.items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)
            self.cfg.set("when_ready", lambda arbiter: ready(arbiter.LISTENERS[0].sock.getsockname()[1]))
            self.cfg.set("post_fork", lambda arbiter, worker: count_apart())

        def load(self):
            return _page

    Application().run()


def gunicorn_sync():
    _gunicorn(workers=2)


def gunicorn_gthread():
    def start_threads(worker):
        # Else they are started by requests, now and then.
        barrier = threading.Barrier(3)
        for _ in range(3):
            worker.tpool.submit(barrier.wait)

    _gunicorn(workers=2, worker_class="gthread", threads=3, post_worker_init=start_threads)


def uvicorn():
    from uvicorn import Config, Server

    async def page(scope, receive, send):
        if scope["type"] == "http":
            tick()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2"), (b"connection", b"close")]})
            await send({"type": "http.response.body", "body": b"ok"})

    listener, port = listening()
    ready(port)
    Server(Config(page, log_level="critical", lifespan="off")).run(sockets=[listener])


def gevent():
    from gevent import monkey

    monkey.patch_all()
    from gevent import get_hub
    from gevent.pywsgi import WSGIServer

    server = WSGIServer(("127.0.0.1", 0), _page, log=None)
    server.start()
    # A thread of its own that would end by itself after some seconds.
    get_hub().threadpool.kill()
    ready(server.server_port)
    server.serve_forever()


def eventlet():
    import eventlet

    eventlet.monkey_patch()
    from eventlet import wsgi

    listener = eventlet.listen(("127.0.0.1", 0))
    ready(listener.getsockname()[1])
    wsgi.server(listener, _page, log_output=False, keepalive=False)


KINDS = {
    name: function
    for name, function in list(globals().items())
    if callable(function) and not name.startswith("_") and name not in ("tick", "count_apart", "ready", "check", "listening", "answer")
}

if __name__ == "__main__":
    if sys.argv[1] == "without_threading":
        # Imported above for the others.
        for module in [name for name in sys.modules if name == "threading"]:
            del sys.modules[module]
        del threading
    with open(sys.argv[2], "r+b") as file:
        _memory = mmap.mmap(file.fileno(), END)
    try:
        KINDS[sys.argv[1]]()
    except ImportError as error:
        if struct.unpack_from("<Q", _memory, READY)[0]:
            raise
        print(error, file=sys.stderr)
        os._exit(MISSING)
