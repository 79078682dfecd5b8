"""The seed API between real processes."""

from __future__ import annotations

import pickle
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from tests.programs import Program
from xpc_instrument import AuthenticationError, Manager, find_free_port
from xpc_instrument.core.discovery.entry import processes
from xpc_instrument.core.model.limits import Limits

JOINED = """
import os, sys, threading, xpc_instrument
from xpc_instrument import Manager
manager = Manager(eval(sys.argv[1]), "password")
manager.connect()

def my_callback(*args, **kwargs):
    return os.getpid(), args, kwargs

class Refused(Exception):
    pass

def refuse(text):
    raise KeyError(text)

def refuse_own(text):
    raise Refused(text)

def back(number):
    return manager.call("host callback", number)

def hang():
    print("inside", flush=True)
    threading.Event().wait(60)

def look(lock):
    return repr(lock).startswith("<reference to _thread.lock"), lock.acquire(), lock.locked()

for function in (my_callback, refuse, refuse_own, back, hang, look):
    assert manager.register(function.__name__, function)
assert manager.register("three times", my_callback, calls=3)
print("ready", flush=True)
for line in sys.stdin:
    if not line.strip():
        break
    print("=>", repr(eval(line)), flush=True)
manager.shutdown()
"""


@pytest.fixture(params=["tcp", "unix"])
def address(request: Any, tmp_path: Path, runtime_dir: Path) -> Any:
    return ("localhost", find_free_port()) if request.param == "tcp" else str(runtime_dir / "m.sock")


@pytest.fixture
def net(address: Any, run_program: Callable[..., Program]) -> Iterator[Tuple[Manager, Program]]:
    with Manager(address, b"password") as host:
        joined = run_program(JOINED, repr(address))
        joined.read_until("ready")
        yield host, joined
        joined.send_line("")
        assert joined.wait() == 0


def test_the_callback_runs_in_the_process_that_registered_it(net: Tuple[Manager, Program]) -> None:
    host, joined = net
    assert host.call("my_callback", 1, 2, 3, a=4, b=5) == ((joined.pid, (1, 2, 3), {"a": 4, "b": 5}), True)
    assert host.call("nobody's") == (None, False)


def test_host_joined_and_proxy_all_reach_each_other(net: Tuple[Manager, Program]) -> None:
    host, joined = net
    assert host.register("host callback", lambda number: number + 1)
    joined.send_line("manager.call('host callback', 5)")
    assert joined.read_line() == "=> (6, True)"
    joined.send_line("manager.call('my_callback', 5)[0][1]")
    assert joined.read_line() == "=> (5,)"
    proxy = pickle.loads(pickle.dumps(host))
    with proxy:
        assert proxy.call("host callback", 6) == (7, True)
        assert proxy.call("my_callback") == ((joined.pid, (), {}), True)
        for forbidden in (proxy.start, proxy.connect, lambda: proxy.register("x", print)):
            with pytest.raises(RuntimeError, match="proxy"):
                forbidden()


def test_a_callback_may_call_back(net: Tuple[Manager, Program]) -> None:
    host, _ = net
    host.register("host callback", lambda number: host.call("my_callback", number)[0][1])
    assert host.call("back", 5) == (((5,), True), True)


def test_eight_threads_call_at_once(net: Tuple[Manager, Program]) -> None:
    host, joined = net
    wrong: List[Any] = []

    def call(index: int) -> None:
        for number in range(50):
            if host.call("my_callback", index, number) != ((joined.pid, (index, number), {}), True):
                wrong.append((index, number))

    threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_exception_arrives_with_its_type_and_remote_traceback_and_the_callback_stays(net: Tuple[Manager, Program]) -> None:
    host, _ = net
    for _attempt in range(2):
        with pytest.raises(KeyError, match="no") as caught:
            host.call("refuse", "no")
        assert "in refuse" in str(caught.value.__cause__)
    with pytest.raises(Exception, match="own") as caught_own:
        host.call("refuse_own", "own")
    assert type(caught_own.value).__name__ == "Refused"


def test_an_argument_that_cannot_be_pickled_is_a_reference(net: Tuple[Manager, Program]) -> None:
    host, _ = net
    lock = threading.Lock()
    assert host.call("look", lock) == ((True, True, True), True)
    assert lock.locked()


def test_a_registration_ends_after_its_calls_or_its_time(net: Tuple[Manager, Program]) -> None:
    host, _ = net
    assert [host.call("three times")[1] for _ in range(4)] == [True, True, True, False]
    host.register("short", lambda: 1, expires=0.05)
    while host.call("short")[1]:
        pass
    assert host.register("mine", lambda: 1)
    assert host.unregister("mine")
    assert not host.unregister("mine")
    assert host.call("mine") == (None, False)
    assert not host.register("my_callback", print)


def test_a_process_that_dies_in_the_middle_of_a_call_was_not_found(address: Any, run_program: Callable[..., Program]) -> None:
    with Manager(address, "password") as host:
        joined = run_program(JOINED, repr(address))
        joined.read_until("ready")
        outcome: List[Any] = []
        thread = threading.Thread(target=lambda: outcome.append(host.call("hang")))
        thread.start()
        joined.read_until("inside")
        joined.signal(signal.SIGKILL)
        thread.join(10)
        assert outcome == [(None, False)]
        joined.wait()
        assert host.call("my_callback") == (None, False)


def test_a_wrong_key_is_an_authentication_error_on_both_sides(address: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Manager(address, "right"):
        with pytest.raises(AuthenticationError):
            Manager(address, "wrong").connect()
        assert "AuthenticationError" in caplog.text
        assert "wrong" not in caplog.text
        assert "right" not in caplog.text


def test_connecting_to_nobody_or_to_a_black_hole_ends(address: Any) -> None:
    with pytest.raises(ConnectionRefusedError):
        Manager(address, "key").connect()
    with pytest.raises(ConnectionRefusedError):
        Manager(address, "key").connect(timeout=0.2)
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as hole:
        hole.bind(address)
        hole.listen(1)
        with pytest.raises(TimeoutError, match="handshake"):
            Manager(address, "key", limits=Limits(connect_timeout=0.3)).connect()
        with pytest.raises(TimeoutError):
            Manager(address, "key").connect(timeout=0.2)
    if isinstance(address, str):
        Path(address).unlink()


def test_the_same_address_is_started_shut_down_and_started_again_at_once(address: Any) -> None:
    manager = Manager(address, "key")
    for _ in range(20):
        manager.start()
        with pytest.raises(RuntimeError):
            manager.start()
        manager.register("x", lambda: 5)
        assert manager.call("x") == (5, True)
        manager.shutdown()
    manager.shutdown()


def test_managers_without_arguments_meet(run_program: Callable[..., Program]) -> None:
    with Manager() as host:
        joined = run_program(
            "import os, sys\nfrom xpc_instrument import Manager\nmanager = Manager()\nmanager.connect()\n"
            "manager.register('pid', os.getpid)\nprint('ready', flush=True)\nsys.stdin.readline()\nmanager.shutdown()\n"
        )
        joined.read_until("ready")
        assert host.call("pid") == (joined.pid, True)
        joined.send_line()
        assert joined.wait() == 0


def test_managers_without_arguments_never_clash_in_one_process(runtime_dir: Path) -> None:
    first, second, third, joined = Manager(), Manager(), Manager(), Manager()
    for manager in (first, second, third):
        manager.start()
    assert first.address == str(runtime_dir / "manager.sock")
    assert len({first.address, second.address, third.address}) == 3
    for index, manager in enumerate((first, second, third)):
        assert manager.register("which", lambda index=index: index)
    assert [manager.call("which") for manager in (first, second, third)] == [(0, True), (1, True), (2, True)]
    with Manager(second.address) as other:
        assert other.call("which") == (1, True)
    assert pickle.loads(pickle.dumps(third)).call("which") == (2, True)
    joined.connect()
    assert joined.call("which") == (0, True)
    for manager in (first, second, third, joined):
        manager.shutdown()
    # The default socket is free again, and whoever starts next takes it.
    second.start()
    assert second.address == str(runtime_dir / "manager.sock")
    joined.start_or_connect()
    assert joined.address == second.address
    joined.shutdown()
    second.shutdown()
    assert list(runtime_dir.iterdir()) == []


STARTED = """
import os, sys
from xpc_instrument import Manager
manager = Manager()
print("made", flush=True)
sys.stdin.readline()
manager.start()
manager.register("pid", os.getpid)
print(manager.address, flush=True)
sys.stdin.readline()
manager.shutdown()
"""


def test_managers_without_arguments_that_start_at_once_never_clash(run_program: Callable[..., Program], runtime_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(runtime_dir / "manager.sock"))
    programs = [run_program(STARTED, name=f"started{index}.py") for index in range(5)]
    for program in programs:
        program.read_until("made")
    for program in programs:
        program.send_line()
    addresses = [program.read_line() for program in programs]
    assert len(set(addresses)) == len(programs)
    assert str(runtime_dir / "manager.sock") in addresses
    for program, address in zip(programs, addresses):
        with Manager(address) as manager:
            assert manager.call("pid") == (program.pid, True)
    for program in programs:
        program.send_line()
        assert program.wait() == 0


def test_what_a_killed_manager_left_is_removed(run_program: Callable[..., Program], runtime_dir: Path) -> None:
    with Manager():
        program = run_program(STARTED)
        program.read_until("made")
        program.send_line()
        left = Path(program.read_line())
        program.signal(signal.SIGKILL)
        program.wait()
        assert left.exists()
        assert processes() == []
        assert not left.exists()


def test_of_threads_that_find_a_dead_socket_at_once_one_gets_its_name(runtime_dir: Path) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(40):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(runtime_dir / "manager.sock"))
            managers = [Manager() for _ in range(8)]
            together = threading.Barrier(len(managers))

            def start(manager: Manager, together: threading.Barrier = together) -> None:
                together.wait()
                manager.start()

            threads = [threading.Thread(target=start, args=(manager,)) for manager in managers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            addresses = {str(manager.address) for manager in managers}
            for manager in managers:
                manager.shutdown()
            assert len(addresses) == len(managers)
    finally:
        sys.setswitchinterval(interval)


def test_of_managers_that_start_or_connect_at_once_one_hosts_and_all_are_joined(address: Any, run_program: Callable[..., Program]) -> None:
    source = (
        "import os, sys\nfrom xpc_instrument import Manager\nmanager = Manager(eval(sys.argv[1]), 'key')\n"
        "sys.stdin.readline()\nmanager.start_or_connect()\nmanager.register(sys.argv[2], os.getpid)\nprint('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print([manager.call(str(i))[1] for i in range(4)], flush=True)\nsys.stdin.readline()\nmanager.shutdown()\n"
    )
    programs = [run_program(source, repr(address), str(index), name=f"p{index}.py") for index in range(4)]
    for _step in ("start", "call"):
        for program in programs:
            program.send_line()
        answers = [program.read_line() for program in programs]
    assert answers == ["[True, True, True, True]"] * 4
    for program in programs:
        program.send_line()
        assert program.wait() == 0


def test_a_tcp_address_without_a_key_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="needs an authkey"):
        Manager(("localhost", 50000))


SEED_APPLICATION = """
from xpc_instrument import Manager
man = Manager(
    address=("localhost", PORT),
    authkey="password",
)
man.start()
print("ready", flush=True)
input()
manager = man
result, found = manager.call("my_callback", 1, 2, 3, a=4, b=5)
if found:
    print(f"Result: {result}")
else:
    print("Callback not found")
man.shutdown()
"""

SEED_OTHER = """
from xpc_instrument import Manager

manager = Manager(
    address=("localhost", PORT),
    authkey="password",
)
manager.connect()

def my_callback(*args, **kwargs):
    print("my_callback args:", args, "kwargs:", kwargs, flush=True)
    return 99

manager.register("my_callback", my_callback)
print("ready", flush=True)
input()
"""


def test_the_seeds_own_snippets_run(run_program: Callable[..., Program]) -> None:
    port = str(find_free_port())
    application = run_program(SEED_APPLICATION.replace("PORT", port), name="application.py")
    application.read_until("ready")
    other = run_program(SEED_OTHER.replace("PORT", port), name="other.py")
    other.read_until("ready")
    application.send_line()
    assert application.read_line() == "Result: 99"
    assert other.read_line() == "my_callback args: (1, 2, 3) kwargs: {'a': 4, 'b': 5}"
    assert application.wait() == 0


FORKED = """
import os, sys, xpc_instrument
from xpc_instrument import Manager
manager = Manager(sys.argv[1])
child = os.fork()
if child == 0:
    manager.start()
    manager.register("late", lambda: os.getpid())
    print("started", os.getpid(), flush=True)
    sys.stdin.readline()
    manager.shutdown()
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_manager_that_was_not_in_use_can_be_started_in_a_child(run_program: Callable[..., Program], tmp_path: Path) -> None:
    path = str(tmp_path / "forked.sock")
    program = run_program(FORKED, path, name="forked.py")
    child = int(program.read_until("started").split()[1])
    with Manager(path) as manager:
        assert manager.call("late") == (child, True)
    program.send_line()
    assert program.wait() == 0
