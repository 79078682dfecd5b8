"""Where a key never is: logs, errors, texts of objects, command lines, environments."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import start_app
from tests.programs import Program, children
from xpc_instrument import TLS, Manager, XpcError, find_free_port
from xpc_instrument.core.config import file as config
from xpc_instrument.core.config.packed import pack
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import Protection, parse_address
from xpc_instrument.core.node.host import Host
from xpc_instrument.core.node.joiner import Joiner

KEY = "s3cr3t-by-which-it-is-found"
OTHER = "0th3r-s3cr3t"

MORE = """
import logging, subprocess, sys
logging.getLogger().setLevel(logging.DEBUG)
child = subprocess.Popen([sys.executable, "-c", "import shop, sys; shop.charge(1); sys.stdin.read()"], stdin=subprocess.PIPE)
"""


def of_process(pid: int) -> str:
    return "".join(Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace") for name in ("environ", "cmdline"))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_an_application_and_its_children_have_it_nowhere_but_in_memory(run_program: Callable[..., Program], tmp_path: Path) -> None:
    key = tmp_path / "shop.key"
    key.touch(0o600)
    key.write_text(KEY + "\n")
    address = ("127.0.0.1", find_free_port("127.0.0.1"))
    settings = f'[manager]\naddress = "tcp:127.0.0.1:{address[1]}"\nauthkey-file = "shop.key"\n[[probe]]\ntarget = "shop:*"\n'
    app = start_app(run_program, tmp_path, settings)
    app.evaluate(f"exec({MORE!r}, globals())")
    with xpc_instrument.connect(address, KEY) as session:
        session.around("shop:charge", lambda call: call.proceed())
        session.around("shop:fail", lambda call: call.proceed())
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
        assert app.evaluate("shop.fail('x')") == "raised ValueError: x"
        # What a hook may ask of the application by `gc` or `vars` is another matter: it runs code there, see SECURITY.md.
        texts = [repr(session), str(session)]
    with pytest.raises(XpcError) as caught:
        xpc_instrument.connect(address, OTHER)
    app.program.read_until("refused a connection")
    app.evaluate("None")
    pids = [app.program.pid, *children(app.program.pid)]
    assert len(pids) == 2
    for pid in pids:
        assert KEY not in of_process(pid)
    assert app.evaluate("child.communicate()") == "(None, None)"
    # The name of the file that holds it is what is handed on.
    assert "shop.key" in of_process(app.program.pid)
    ls = subprocess.run(
        [sys.executable, "-m", "xpc_instrument.cli", "ls", "shop", "--authkey-file", str(key)], capture_output=True, text=True, check=False
    )
    ps = subprocess.run([sys.executable, "-m", "xpc_instrument.cli", "ps"], capture_output=True, text=True, check=False)
    assert "shop:charge" in ls.stdout
    for text in (*texts, str(caught.value), app.program.text, ls.stdout + ls.stderr, ps.stdout + ps.stderr):
        assert KEY not in text
        assert OTHER not in text
    folder = Path(os.environ["XPC_INSTRUMENT_RUNTIME_DIR"])
    for path in folder.iterdir():
        assert path.is_socket() or KEY.encode() not in path.read_bytes()


def test_no_object_shows_it_and_no_line_of_the_log_has_it(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    address = ("127.0.0.1", find_free_port("127.0.0.1"))
    shown: List[Any] = [TLS("a", "b", "c"), Protection(), Protection(TLS("a", "b", "c"))]
    with Manager(address, KEY) as host, Manager(address, KEY) as joined:
        joined.register("length", len)
        joined.register("fail", int)
        assert host.call("length", "four") == (4, True)
        with pytest.raises(ValueError, match="invalid"):
            host.call("fail", "x")
        shown += [host, joined, host._host, joined._joiner, host._registry, joined._joiner._control]  # type: ignore[union-attr]
        assert host._host is not None
        shown += [*host._host.peers.values(), host._host._acceptor]
        peer = next(iter(host._host.peers.values()))
        shown += [peer.wire, peer.wire.connection, peer.wire.connection.hello, peer.wire.connection.welcome, peer.lanes]
        wrong = Manager(address, OTHER)
        with pytest.raises(XpcError) as caught:
            wrong.connect()
        shown += [wrong, caught.value, *caught.value.args]
        joiner = Joiner(parse_address(address), OTHER.encode(), limits=Limits())
        with pytest.raises(XpcError) as caught:
            joiner.connect(time.monotonic() + 20)
        shown += [joiner, caught.value]
        with pytest.raises(XpcError) as caught:
            Manager(address, KEY).start()
        shown += [caught.value]
        logging.getLogger("test").error("with its frames", exc_info=caught.value)
    path = tmp_path / "shop.key"
    path.touch(0o600)
    path.write_text(KEY)
    settings = config.parse('[manager]\naddress = "tcp:localhost:1"\nauthkey-file = "shop.key"\n', tmp_path / "xpc-instrument.toml")
    assert settings.manager.read_authkey() == KEY.encode()
    shown += [settings, pack(settings), settings.manager]
    for one in shown:
        for text in (repr(one), str(one)):
            assert KEY not in text
            assert OTHER not in text
    assert KEY not in caplog.text
    assert OTHER not in caplog.text


def test_the_arguments_that_are_wrong_are_told_without_it() -> None:
    for make in (
        lambda: Manager(("localhost", 70000), KEY),
        lambda: Manager(("localhost", 1), [KEY]),  # type: ignore[arg-type]
        lambda: xpc_instrument.connect(True, KEY),
        lambda: xpc_instrument.connect("no such application", KEY),
        lambda: xpc_instrument.connect(("127.0.0.1", find_free_port()), KEY),
    ):
        with pytest.raises((XpcError, ValueError, TypeError)) as caught:
            make()
        assert KEY not in repr(caught.value)


def test_a_pickled_manager_has_it_on_purpose() -> None:
    """Or it could not call; SECURITY.md says to treat the pickle as the key."""
    assert KEY.encode() in pickle.dumps(Manager(("localhost", 1), KEY))
    assert Host.__repr__ is object.__repr__
