"""Whoever reaches the port but does not hold the key: the application serves its own scripts all the while, and nothing of it grows."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, start_app
from tests.programs import Program
from xpc_instrument import AuthenticationError, Session, find_free_port
from xpc_instrument.core.protocol.codec import HEADER, MAX_UNPROVED, dump_message, encode
from xpc_instrument.core.protocol.connection import new_nonce, prove
from xpc_instrument.core.protocol.messages import PROTOCOL_VERSION, Hello, Opcode, Proof
from xpc_instrument.core.values.traits import python_version

KEY = "the key that the attacker does not hold"
# A legitimate script may wait this long for all that it does, in seconds, on a machine that does much else.
PROMPT = 5.0
# What may come on top while an application is attacked.
MORE_MEMORY = 24 << 20
MORE_DESCRIPTORS = 40
# Lines in a log: a few for each kind of refusal, and a count.
MOST_LINES = 25


class Attacked:
    """An application on TCP, with what it holds before anybody attacks it."""

    def __init__(self, app: App, port: int, trace: Path) -> None:
        self.app = app
        self.port = port
        self.trace = trace
        self.serve()
        self.memory = self._memory()
        self.descriptors = self._descriptors()
        self.lines = len(app.program.output)
        self._open: List[socket.socket] = []

    def serve(self) -> float:
        """A legitimate script comes, hooks, is called, and leaves; how many seconds that took."""
        started = time.monotonic()
        with xpc_instrument.connect(("127.0.0.1", self.port), KEY) as session:
            session.instead("shop:charge", lambda amount: amount * 2)
            assert self.app.evaluate("shop.charge(21)") == "42"
        assert self.app.evaluate("shop.twice(1) if hasattr(shop, 'twice') else 2") == "2"
        return time.monotonic() - started

    def connect(self, data: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self._open.append(sock)
        if data:
            try:
                sock.sendall(data)
            except OSError:
                pass  # refused before it had sent all
        return sock

    def hold(self, sock: socket.socket) -> None:
        self._open.append(sock)

    def release(self) -> None:
        for sock in self._open:
            sock.close()
        self._open.clear()

    def _memory(self) -> int:
        with open(f"/proc/{self.app.program.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.app.program.pid}/fd"))

    def check(self) -> None:
        """It serves promptly, has grown within bounds, has written little, and unpickled nothing."""
        assert self.serve() < PROMPT
        assert self._memory() - self.memory < MORE_MEMORY
        assert self._descriptors() - self.descriptors < MORE_DESCRIPTORS
        self.app.log()
        written = [
            line for line in self.app.program.output[self.lines :] if line and not line.startswith("=>") and "end of the log" not in line
        ]
        assert len(written) < MOST_LINES, written
        assert max(map(len, written), default=0) < 700
        assert not self.trace.exists(), "the application unpickled what a stranger sent"


@pytest.fixture
def attacked(run_program: Callable[..., Program], tmp_path: Path) -> Iterator[Attacked]:
    key = tmp_path / "shop.key"
    key.touch(0o600)
    key.write_text(KEY)
    port = find_free_port("127.0.0.1")
    config = f'[manager]\naddress = "tcp:127.0.0.1:{port}"\nauthkey-file = "shop.key"\n[[probe]]\ntarget = "shop:*"\n'
    found = Attacked(start_app(run_program, tmp_path, config), port, tmp_path / "unpickled")
    yield found
    found.release()


def hello(session: str = "attacker", role: str = "control") -> Tuple[bytes, bytes]:
    """A HELLO that is right: its body, and its frame."""
    opcode, body = dump_message(Hello(PROTOCOL_VERSION, role, session, new_nonce(), os.getpid(), python_version(), "attack"))
    return body, b"".join(map(bytes, encode(opcode, 0, body)))


def frame(opcode: int, body: bytes) -> bytes:
    return HEADER.pack(opcode, 0, 0, 0, len(body)) + body


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def read_all(sock: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    try:
        while True:
            data = sock.recv(65536)
            if not data:
                return found
            found += data
    except ConnectionResetError:
        return found


def read_frame(sock: socket.socket) -> bytes:
    head = sock.recv(12, socket.MSG_WAITALL)
    return sock.recv(struct.unpack("!BBHII", head)[4], socket.MSG_WAITALL)


# too many ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["nothing", "HELLO"])
def test_a_thousand_half_open_connections_keep_nobody_out(attacked: Attacked, said: str) -> None:
    poller = select.poll()
    waiting = {}
    for _ in range(1000):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", attacked.port))
        attacked.hold(sock)
        poller.register(sock, select.POLLOUT)
        waiting[sock.fileno()] = sock
    # While they come, and when all are there.
    slowest = attacked.serve()
    deadline = time.monotonic() + 20
    while waiting and time.monotonic() < deadline:
        for number, _events in poller.poll(1000):
            poller.unregister(number)
            sock = waiting.pop(number)
            if said == "HELLO":
                try:
                    sock.send(hello()[1])
                except OSError:
                    pass  # it had to give way already
    slowest = max(slowest, attacked.serve())
    assert slowest < PROMPT
    attacked.check()


def test_a_flood_of_connections_keeps_nobody_out_and_leaves_the_application_its_time(attacked: Attacked) -> None:
    stop = threading.Event()
    count = [0]

    def flood() -> None:
        _, opening = hello()
        held: List[socket.socket] = []
        while not stop.is_set():
            sock = socket.socket()
            sock.settimeout(0.2)
            try:
                sock.connect(("127.0.0.1", attacked.port))
                sock.send(opening)
                count[0] += 1
            except OSError:
                sock.close()
                continue
            held.append(sock)
            if len(held) > 100:
                held.pop(0).close()
        for sock in held:
            sock.close()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        times = [attacked.serve() for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert count[0] > 100
    assert sorted(times)[2] < PROMPT
    attacked.check()


# slow and deaf -----------------------------------------------------------------------------------------------------------


def test_a_byte_now_and_then_earns_no_time_beyond_the_handshakes(attacked: Attacked) -> None:
    _, opening = hello()
    slow = [attacked.connect(opening[:1]) for _ in range(10)]
    started = time.monotonic()
    ended = set()
    for byte in opening[1:]:
        # Each byte within the time-out of a reader that would start it anew with what arrives.
        readable, _, _ = select.select([sock for sock in slow if sock not in ended], [], [], 0.1)
        ended.update(readable)
        if len(ended) == len(slow):
            break
        for sock in set(slow) - ended:
            try:
                sock.send(bytes([byte]))
            except OSError:
                ended.add(sock)
    seconds = time.monotonic() - started
    assert len(ended) == len(slow)
    assert 1.5 < seconds < 6.0  # handshake-timeout is 2 s
    assert b"no handshake within 2.0 s" in read_all(slow[0])
    attacked.check()


def test_a_peer_that_never_reads_blocks_nobody(attacked: Attacked) -> None:
    for _ in range(10):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.connect(("127.0.0.1", attacked.port))
        sock.settimeout(1)
        attacked.hold(sock)
        try:
            for _ in range(50):
                sock.send(hello()[1] * 20)
        except OSError:
            pass  # refused: HELLO comes once
    attacked.check()


# what is no frame, or the wrong one -----------------------------------------------------------------------------------------


def hostile_bytes(trace: Path) -> List[Tuple[str, bytes]]:
    evil = pickle.dumps(Evil(trace), 5)
    _, opening = hello()
    chance = random.Random(4)
    named = [
        ("an oversized frame", HEADER.pack(Opcode.HELLO, 0, 0, 0, MAX_UNPROVED + 1) + b"x" * 100_000),
        ("a frame of 4 GiB", HEADER.pack(Opcode.HELLO, 0, 0, 0, 2**32 - 1) + b"x" * 100_000),
        ("buffers of 2**64 bytes", HEADER.pack(Opcode.CALL, 255, 0, 0, 0) + b"\xff" * 8 * 255),
        ("a truncated header", opening[:7]),
        ("a truncated body", opening[:-5]),
        ("a pickle", evil),
        ("a pickle in a HELLO", frame(Opcode.HELLO, evil)),
        ("a pickle in a CALL", b"".join(map(bytes, encode(Opcode.CALL, 1, evil, [evil])))),
        ("a PROOF first", frame(Opcode.PROOF, b'{"mac":"00"}')),
        ("HELLO twice", opening + opening),
        ("a CALL behind HELLO", opening + frame(Opcode.CALL, evil)),
        ("a REGISTER behind HELLO", opening + frame(Opcode.REGISTER, b"{}")),
        ("a WELCOME", opening + frame(Opcode.WELCOME, b"{}")),
        ("surrogates in a PROOF", opening + frame(Opcode.PROOF, b'{"mac":"\\ud800"}')),
        ("deep JSON", frame(Opcode.HELLO, b"[" * 4000)),
        ("a number without end", frame(Opcode.HELLO, b'{"version":' + b"9" * 4000 + b"}")),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("TLS", bytes.fromhex("16030102000100") + b"x" * 600),
    ]
    named += [(f"{opcode.name} unproved", frame(opcode, evil)) for opcode in Opcode if opcode is not Opcode.HELLO]
    named += [(f"garbage {n}", bytes(chance.randrange(256) for _ in range(chance.randrange(1, 5000)))) for n in range(100)]
    return named


def test_what_is_no_handshake_is_refused_and_costs_little(attacked: Attacked) -> None:
    waited_for = []
    for name, data in hostile_bytes(attacked.trace):
        sock = attacked.connect(data)
        if name in ("a truncated header", "a truncated body"):
            waited_for.append(sock)
            continue
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is refused already
        assert len(read_all(sock)) < 2 * MAX_UNPROVED, name
        sock.close()
    for sock in waited_for:
        assert b"no handshake within" in read_all(sock)
    attacked.check()


def test_frames_out_of_order_and_in_single_bytes_are_refused_or_understood_alike(attacked: Attacked) -> None:
    body, opening = hello()
    sock = attacked.connect()
    for byte in opening:
        sock.send(bytes([byte]))
    challenge = read_frame(sock)
    mac = prove(KEY.encode(), "dialler", body, challenge)
    data = frame(Opcode.PROOF, json.dumps({"mac": mac}).encode())
    for byte in data:
        sock.send(bytes([byte]))
    assert json.loads(read_frame(sock))["app"] == "shop"
    # The same two the other way around.
    sock = attacked.connect(data + opening)
    assert b"PROOF in the state" in read_all(sock)
    attacked.check()


def test_a_handshake_that_was_recorded_opens_no_second_connection(attacked: Attacked) -> None:
    body, opening = hello("recorded")
    first = attacked.connect(opening)
    challenge = read_frame(first)
    proof = b"".join(map(bytes, encode(*_proof(body, challenge))))
    first.sendall(proof)
    assert json.loads(read_frame(first))["app"] == "shop"
    for replay in (opening + proof, opening):
        second = attacked.connect(replay)
        if replay == opening:
            assert read_frame(second) != challenge
            second.sendall(proof)
        assert b"the keys of the two sides differ" in read_all(second)
    # The proof of the dialling side, told to it as that of the listening side, and the other way around.
    assert prove(KEY.encode(), "listener", body, challenge) != prove(KEY.encode(), "dialler", body, challenge)
    first.close()
    attacked.check()


def _proof(body: bytes, challenge: bytes) -> Tuple[Opcode, int, bytes]:
    opcode, data = dump_message(Proof(prove(KEY.encode(), "dialler", body, challenge)))
    return opcode, 0, data


# keys ----------------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_leaves_one_line_and_not_the_key(attacked: Attacked, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AuthenticationError, match="the keys of the two sides differ") as caught:
        xpc_instrument.connect(("127.0.0.1", attacked.port), "a key that is wrong")
    attacked.app.program.read_until("refused a connection")
    attacked.app.log()
    lines = [line for line in attacked.app.program.output[attacked.lines :] if "xpc_agent" in line]
    assert len(lines) == 1
    assert "AuthenticationError: the keys of the two sides differ" in lines[0]
    for text in (lines[0], str(caught.value), caplog.text):
        assert "a key that is wrong" not in text
        assert KEY not in text


def test_tcp_without_a_key_is_refused_before_anything_is_sent(attacked: Attacked) -> None:
    for application in (("127.0.0.1", attacked.port), "shop"):
        with pytest.raises((AuthenticationError, xpc_instrument.ChannelError), match=r"needs a key, .*authkey=\.\.\."):
            xpc_instrument.connect(application)
    attacked.app.log()
    assert [line for line in attacked.app.program.output[attacked.lines :] if "refused" in line] == []


def test_a_session_of_a_legitimate_script_outlives_all_of_it(attacked: Attacked) -> None:
    def session_works(session: Session) -> bool:
        return attacked.app.evaluate("shop.charge(21)") == "42"

    with xpc_instrument.connect(("127.0.0.1", attacked.port), KEY) as session:
        session.instead("shop:charge", lambda amount: amount * 2)
        for name, data in hostile_bytes(attacked.trace)[:20]:
            attacked.connect(data)
            assert session_works(session), name
