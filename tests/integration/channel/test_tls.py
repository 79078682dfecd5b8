"""TLS with certificates on both sides: what crosses is as it was, nobody on the way can read it, and who is not of the fleet stays out."""

from __future__ import annotations

import datetime
import logging
import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, start_app
from tests.programs import Program
from xpc_instrument import TLS, AuthenticationError, ChannelError, ConfigError, Manager, PlaintextError, find_free_port
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import Protection, parse_address
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.protocol.codec import encode
from xpc_instrument.core.protocol.connection import Connection
from xpc_instrument.core.protocol.messages import Opcode

pytest.importorskip("cryptography")

KEY = "a key beside the certificates"
CLI = [sys.executable, "-m", "xpc_instrument.cli"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CA with the members `shop`, `scripts`; beside it that of another CA, `other`, with a member `shop` too."""
    folder = tmp_path_factory.mktemp("fleet")
    for name, members in (("certs", ["shop", "scripts"]), ("other", ["shop"])):
        done = subprocess.run([*CLI, "certificates", str(folder / name), *members], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "certs"


@pytest.fixture
def shop(fleet: Path) -> TLS:
    return TLS.from_folder(fleet / "shop")


@pytest.fixture
def scripts(fleet: Path) -> TLS:
    return TLS.from_folder(fleet / "scripts")


@pytest.fixture
def stranger(fleet: Path) -> TLS:
    return TLS.from_folder(fleet.parent / "other" / "shop")


class Log(logging.Handler):
    """What the library logs in this process, in its service threads too."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put(record.getMessage())

    def wait_for(self, text: str) -> None:
        """Wait for the next line with this text in it."""
        while text not in self._lines.get(timeout=20):
            pass


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    logger = logging.getLogger("xpc_instrument")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def host(shop: TLS) -> Iterator[Manager]:
    with Manager(("127.0.0.1", find_free_port("127.0.0.1")), KEY, tls=shop) as manager:
        yield manager


# what crosses ------------------------------------------------------------------------------------------------------------


def test_callbacks_are_called_in_both_directions_with_values_of_any_size(host: Manager, scripts: TLS) -> None:
    with Manager(host.address, KEY, tls=scripts) as joined:
        joined.register("length", len)
        host.register("twice", lambda value: value * 2)
        for size in (0, 1, 16_383, 16_384, 16_385, 300_000, 20_000_000):
            assert host.call("length", b"x" * size) == (size, True)
            result, found = joined.call("twice", b"y" * size)
            assert found
            assert result == b"y" * size * 2
        many = {str(number): bytearray(number) for number in range(2000)}
        assert joined.call("twice", [many]) == ([many, many], True)
        host.register("fail", int)
        with pytest.raises(ValueError, match="invalid literal"):
            joined.call("fail", "x")


def test_a_proxy_made_by_pickling_speaks_tls_too(host: Manager) -> None:
    host.register("length", len)
    with pickle.loads(pickle.dumps(host)) as proxy:
        assert proxy.call("length", "four") == (4, True)


def test_one_connection_takes_what_several_threads_send_while_another_receives(host: Manager, scripts: TLS) -> None:
    joiner = Joiner(parse_address(host.address), KEY.encode(), limits=Limits(), protection=Protection(scripts))
    joiner.connect(time.monotonic() + 20)

    def ask(number: int) -> None:
        for round_ in range(40):
            joiner.notify("noise", text="x" * (number * 3000 + round_))
            assert joiner.query("nothing of the kind", 20).ok

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    assert joiner.alive
    joiner.close()


def test_who_is_on_the_way_reads_nothing(host: Manager, scripts: TLS) -> None:
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as relay:
        threads = [threading.Thread(target=_relay, args=(relay, host.address, heard))]
        threads[0].start()
        with Manager(relay.getsockname(), KEY, tls=scripts) as joined:
            joined.register("echo", lambda value: value)
            assert host.call("echo", "a very secret value " * 20)[0].startswith("a very secret")
        relay.shutdown(socket.SHUT_RDWR)
        threads[0].join()
    assert len(heard) > 2000
    for word in (b"secret value", b"HELLO", b"session", b"mac", b"echo", b"xpc"):
        assert word not in bytes(heard)


def test_what_the_socket_does_not_take_yet_is_not_taken_for_sent(shop: TLS, scripts: TLS) -> None:
    one, two = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    deadline = time.monotonic() + 20
    dialler = scripts.wire(one, Connection(dialling=True, key=b"", max_payload=1), listening=False)
    listener = shop.wire(two, Connection(dialling=False, key=b"", max_payload=1), listening=True)
    listener.connection.reader.limit = 1_000_000
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(listener.receive, deadline)
        dialler.shake_hands(deadline)
        dialler.transmit(encode(Opcode.PING, 0, b""), deadline)
        assert first.result().opcode is Opcode.PING
        # All of it is encrypted at once, and little of it fits.
        rest = dialler.transmit_some(encode(Opcode.CALL, 7, b"x" * 100_000))
        assert rest == [b""]
        second = pool.submit(listener.receive, deadline)
        dialler.transmit(rest, deadline)
        assert bytes(second.result().body) == b"x" * 100_000
    # Several frames that came in one piece are there without anything else coming.
    dialler.transmit([*encode(Opcode.PING, 1, b""), *encode(Opcode.PING, 2, b""), *encode(Opcode.PING, 3, b"")], deadline)
    assert [listener.receive(time.monotonic() + 0.01 * n + 5).ident for n in range(3)] == [1, 2, 3]
    dialler.close()
    listener.close()


def _relay(listener: socket.socket, where: Any, heard: bytearray) -> None:
    """Pass on every connection to `listener`, and keep what passes."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        while True:
            try:
                data = source.recv(65536)
                heard.extend(data)
                if not data:
                    sink.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)
            except OSError:
                return  # the other pump has ended it

    pumps: List[threading.Thread] = []
    sockets: List[socket.socket] = []
    while True:
        try:
            one, _ = listener.accept()
        except OSError:
            break
        two = socket.create_connection(where)
        sockets += [one, two]
        pumps += [threading.Thread(target=pump, args=pair) for pair in ((one, two), (two, one))]
        for thread in pumps[-2:]:
            thread.start()
    for thread in pumps:
        thread.join()
    for sock in sockets:
        sock.close()


# an application ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def app(run_program: Callable[..., Program], tmp_path: Path, fleet: Path) -> Tuple[str, App, App]:
    """Two processes at one address that all the world may reach: (the address to dial, the host, a member)."""
    key = tmp_path / "shop.key"
    key.touch(0o600)
    key.write_text(KEY)
    port = find_free_port("127.0.0.1")
    files = "".join(f'tls-{name} = "{fleet}/shop/{file}.pem"\n' for name, file in (("certificate",) * 2, ("key",) * 2, ("ca",) * 2))
    config = f'[manager]\naddress = "tcp:0.0.0.0:{port}"\nauthkey-file = "shop.key"\n{files}[[probe]]\ntarget = "shop:*"\n'
    first = start_app(run_program, tmp_path, config)
    return f"tcp:127.0.0.1:{port}", first, start_app(run_program, tmp_path, config)


def test_hooks_work_in_an_application_that_listens_everywhere(app: Tuple[str, App, App], scripts: TLS) -> None:
    address, host, member = app
    seen: List[Any] = []
    with xpc_instrument.connect(address, KEY, tls=scripts) as session:
        session.around("shop:Order.total", lambda call: call.proceed() + call.instance.number)
        session.instead("shop:wait_a_little", lambda number: number * 100)
        session.before("shop:charge", lambda call: seen.append(len(str(call.args[0]))))
        session.after("shop:fail", lambda call: seen.append(str(call.exception)))
        for one in (host, member):
            assert one.evaluate("shop.Order(21).total()") == "42"
            assert one.evaluate("asyncio.run(shop.wait_a_little(4))") == "400"
            assert one.evaluate("asyncio.run(asyncio.wait_for(shop.wait_a_little(4), 5))") == "400"
            assert one.evaluate("len(shop.charge('x' * 3_000_000))") == "3000004"
            assert one.evaluate("shop.fail('broken')") == "raised ValueError: broken"
        threads = "list(__import__('concurrent.futures').futures.ThreadPoolExecutor(8).map(lambda n: shop.Order(n).total(), range(200)))"
        assert host.evaluate(f"sum({threads})") == str(2 * sum(range(200)))
    assert seen == [3_000_000, "broken"] * 2
    assert host.evaluate("asyncio.run(shop.wait_a_little(4))") == "5"
    assert "failed" not in host.program.text + member.program.text


def test_ls_takes_the_folder_of_a_member(app: Tuple[str, App, App], fleet: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*CLI, "ls", "shop", "--json", "--authkey-file", str(tmp_path / "shop.key"), "--tls-dir", str(fleet / "scripts")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ},
    )
    # It is announced under the address at which it listens, which is dialled as this machine.
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["app"] for one in as_json(done.stdout)] == ["shop", "shop"]


# who stays out -----------------------------------------------------------------------------------------------------------


def refusal_of(manager: Manager) -> BaseException:
    with pytest.raises((ChannelError, AuthenticationError)) as caught:
        manager.connect()
    return caught.value


def test_a_certificate_of_another_fleet_is_refused_on_both_sides(host: Manager, stranger: TLS, scripts: TLS, fleet: Path, log: Log) -> None:
    found = refusal_of(Manager(host.address, KEY, tls=stranger))
    assert isinstance(found, AuthenticationError)
    assert "certificate is not one of this fleet's" in str(found)
    # One that trusts this fleet but is not of it: it finds nothing wrong, the host does.
    half = TLS(Path(stranger.certificate), Path(stranger.key), fleet / "ca.pem")
    found = refusal_of(Manager(host.address, KEY, tls=half))
    assert "certificate" in str(found)
    log.wait_for("not one of this fleet's")
    with Manager(host.address, KEY, tls=scripts) as joined:
        assert joined.call("nothing") == (None, False)


def test_who_shows_no_certificate_is_refused(host: Manager, fleet: Path, log: Log) -> None:
    import ssl

    context = ssl.create_default_context(cafile=str(fleet / "ca.pem"))
    context.check_hostname = False
    with socket.create_connection(host.address) as sock:
        try:
            with context.wrap_socket(sock) as wrapped:
                # TLS 1.3 tells the client when it reads.
                answer = wrapped.recv(100)
        except OSError:
            answer = b""
    assert answer == b""
    log.wait_for("the other side showed no certificate")


def test_an_expired_certificate_is_refused(shop: TLS, scripts: TLS, fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xpc_instrument.cli import certificates

    monkeypatch.setattr(certificates, "_EARLIER", datetime.timedelta(days=3))
    certificates._issue(tmp_path / "old", "old", certificates._authority(fleet), -1)
    with Manager(("127.0.0.1", find_free_port("127.0.0.1")), KEY, tls=TLS.from_folder(tmp_path / "old")) as host:
        found = refusal_of(Manager(host.address, KEY, tls=scripts))
    assert "expired" in str(found)


def test_a_wrong_key_is_refused_inside_tls(host: Manager, scripts: TLS) -> None:
    found = refusal_of(Manager(host.address, "another key", tls=scripts))
    assert isinstance(found, AuthenticationError)
    assert "the keys of the two sides differ" in str(found)


def test_one_side_without_tls_is_told_so(host: Manager, scripts: TLS, log: Log) -> None:
    assert "is TLS configured on both sides" in str(refusal_of(Manager(host.address, KEY)))
    log.wait_for("does not speak TLS")
    with Manager(("127.0.0.1", find_free_port("127.0.0.1")), KEY) as plain:
        assert "does not speak TLS" in str(refusal_of(Manager(plain.address, KEY, tls=scripts)))
        log.wait_for("it seems to speak TLS, which is not configured here")


def test_half_a_tls_handshake_keeps_nobody_out(host: Manager, scripts: TLS) -> None:
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    opening = outgoing.read()
    sockets = []
    for number in range(100):
        sock = socket.create_connection(host.address)
        sock.sendall((opening, opening[:50], opening[:5] + b"\xff" * 500, b"x" * 20_000)[number % 4])
        sockets.append(sock)
    with Manager(host.address, KEY, tls=scripts) as joined:
        joined.register("length", len)
        assert host.call("length", "four") == (4, True)
    for sock in sockets:
        sock.close()


def test_a_handshake_cannot_be_drawn_out_by_many_small_records(host: Manager, scripts: TLS, log: Log) -> None:
    """128 KiB of a first message, each byte in a record of its own: some 60 ms of the thread that serves all."""
    message = b"\x01" + (131_000).to_bytes(3, "big") + b"\x03\x03" + bytes(131_000)
    with socket.create_connection(host.address) as sock:
        try:
            sock.sendall(b"".join(b"\x16\x03\x01\x00\x01" + bytes([byte]) for byte in message))
        except OSError:
            pass  # closed meanwhile
        log.wait_for("bytes before the end of the TLS handshake")
    with Manager(host.address, KEY, tls=scripts) as joined:
        joined.register("length", len)
        assert host.call("length", "four") == (4, True)


# files -------------------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_told_by_name(fleet: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    folder = fleet / "shop"
    certificate, key, ca = (folder / name for name in ("certificate.pem", "key.pem", "ca.pem"))
    public = tmp_path / "public.pem"
    public.write_bytes(key.read_bytes())
    public.chmod(0o640)
    garbage = tmp_path / "garbage.pem"
    garbage.touch(0o600)
    garbage.write_text("no PEM")
    encrypted = tmp_path / "encrypted.pem"
    encrypted.touch(0o600)
    encrypted.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password")
        )
    )
    other = fleet / "scripts" / "key.pem"
    missing = tmp_path / "missing.pem"
    for files, expected in (
        ((certificate, public, ca), rf"{public}: other users have access \(mode 0640\); make it private: chmod 600"),
        ((certificate, encrypted, ca), rf"{encrypted}: is encrypted"),
        ((certificate, other, ca), rf"{certificate}: cannot be loaded with the key {other} \(key values mismatch"),
        ((certificate, garbage, ca), rf"{certificate}: cannot be loaded with the key {garbage}"),
        ((certificate, missing, ca), rf"{missing}: cannot be read"),
        ((missing, key, ca), rf"{missing}: no such file"),
        ((certificate, key, missing), rf"{missing}: no such file"),
        ((certificate, key, garbage), rf"{garbage}: cannot be loaded"),
    ):
        tls = TLS(*files)
        with pytest.raises(ConfigError, match=expected):
            tls.load()
        with pytest.raises(ConfigError, match=expected):
            Manager(("127.0.0.1", 1), KEY, tls=tls).start()
        with pytest.raises(ConfigError, match=expected):
            xpc_instrument.connect(("127.0.0.1", 1), KEY, tls=tls)


def test_paths_that_are_none_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"key=.*expected the path of a PEM file, got NoneType"):
        TLS("a", None, "c")  # type: ignore[arg-type]


# plaintext ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["0.0.0.0", "", "::", "192.0.2.1"])
def test_listening_beyond_loopback_without_tls_is_refused_with_the_remedy(where: str) -> None:
    with pytest.raises(PlaintextError, match=r"beyond loopback.*tls=TLS\(\.\.\.\).*plaintext_beyond_loopback=True"):
        Manager((where, find_free_port()), KEY).start()


def test_dialling_beyond_loopback_without_tls_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(PlaintextError, match="beyond loopback"):
        Manager(("192.0.2.1", 80), KEY).connect()
    with pytest.raises(PlaintextError, match="beyond loopback"):
        xpc_instrument.connect("tcp:192.0.2.1:80", KEY)


@pytest.mark.parametrize("where", ["localhost", "127.0.0.1", "127.3.2.1"])
def test_loopback_needs_no_tls(where: str) -> None:
    with Manager((where, find_free_port()), KEY) as host, Manager(host.address, KEY) as joined:
        joined.register("length", len)
        assert host.call("length", "four") == (4, True)


def test_who_says_that_plaintext_will_do_gets_it() -> None:
    port = find_free_port("0.0.0.0")
    with Manager(("0.0.0.0", port), KEY, plaintext_beyond_loopback=True) as host:
        host.register("length", len)
        with Manager(("0.0.0.0", port), KEY, plaintext_beyond_loopback=True) as joined:
            assert joined.call("length", "four") == (4, True)
        with pickle.loads(pickle.dumps(host)) as proxy:
            assert proxy.call("length", "four") == (4, True)


def test_an_application_whose_name_resolves_beyond_loopback_runs_on_without_listening(
    run_program: Callable[..., Program], tmp_path: Path
) -> None:
    """A name is known only when it is used, and then nothing may harm the application. `0` is one that resolves to 0.0.0.0 everywhere."""
    key = tmp_path / "shop.key"
    key.touch(0o600)
    key.write_text(KEY)
    manager = f'[manager]\naddress = "tcp:0:{find_free_port()}"\nauthkey-file = "shop.key"\n'
    app = start_app(run_program, tmp_path, f'{manager}[[probe]]\ntarget = "shop:*"\n')
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert "is 0.0.0.0, beyond loopback" in app.log()
