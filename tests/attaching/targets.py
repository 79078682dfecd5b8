"""`python targets.py KIND FILE`: a program to attach to, which knows nothing of us. Needs nothing but the standard library.

It counts its work in the first 8 bytes of FILE, and checks it: what is wrong ends it with a status of its own. In the next 8 bytes it says
that it is ready (its pid), in the next the port where it listens, if it does.
"""

import mmap
import os
import struct
import sys
import threading
import time

NUMBER, READY, PORT = 0, 8, 16
WRONG = 99
_counted = 0
_memory = None


def tick():
    global _counted
    _counted += 1
    struct.pack_into("<Q", _memory, NUMBER, _counted)


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


KINDS = {
    name: function
    for name, function in list(globals().items())
    if callable(function) and name not in ("tick", "ready", "check", "listening", "answer")
}

if __name__ == "__main__":
    if sys.argv[1] == "without_threading":
        # Imported above for the others.
        for module in [name for name in sys.modules if name == "threading"]:
            del sys.modules[module]
        del threading
    with open(sys.argv[2], "r+b") as file:
        _memory = mmap.mmap(file.fileno(), 4096)
    KINDS[sys.argv[1]]()
