"""The thread of the agent's stand-in, which an application must not find at a fork, and what it leaves in the application's descriptors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import xpc_agent

STAND_IN = Path(xpc_agent.__file__).parent / "bootstrap" / "sitecustomize.py"

PRELUDE = f"""
import importlib.util, os, socket, sys

spec = importlib.util.spec_from_file_location("stand_in", {str(STAND_IN)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
listener = socket.socket()
listener.listen()

def begin():
    stub = module.Stub("app pay\\nfolder /\\nversion 1\\nquoted /\\nmodules \\non-demand ")
    stub.begin(False)
    stub.listener, stub._inode = listener.fileno(), os.fstat(listener.fileno()).st_ino
    stub._start_thread()
    return stub
"""


def run(source: str, said: str = "") -> str:
    done = subprocess.run([sys.executable, "-c", PRELUDE + source], capture_output=True, text=True, timeout=20)
    assert done.stderr == said
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted as /proc has them")
def test_a_thread_that_gets_to_run_when_it_is_to_end_already_ends() -> None:
    # As where the agent is loaded at once: whoever opens something next has the numbers of what the thread was to poll.
    source = """
for _ in range(300):
    stub = begin()
    stub._end_thread(0.0)
    others = [os.pipe() for _ in range(2)]
    stub._await_gone(10.0)
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, threads
    for pair in others:
        os.close(pair[0])
        os.close(pair[1])
print(len(os.listdir("/proc/self/fd")))
"""
    # The standard ones, the listener, and that of the folder.
    assert run(source) == "5"


def test_an_application_that_has_closed_all_descriptors_keeps_what_it_opens_then() -> None:
    source = """
stub = begin()
os.closerange(3, 100)
stub._await_gone(10.0)
own = [os.pipe() for _ in range(4)]
stub._end_thread(1.0)
stub.withdraw()
for read, write in own:
    os.set_blocking(read, False)
    os.write(write, b"its own")
    assert os.read(read, 100) == b"its own"
print("kept", flush=True)
os._exit(0)
"""
    assert run(source) == "kept"


# Somebody connects, and the thread goes on with its import of `logging` when `forks` has HELD items: the fork begins, and it has ended.
FORKING = """
import signal, time, warnings
from importlib.machinery import PathFinder, SourceFileLoader

class Held(SourceFileLoader):
    def exec_module(self, module):
        forks.append("waits")
        while len(forks) <= HELD:
            time.sleep(0.001)
        super().exec_module(module)

class Holds:
    def find_spec(self, name, path=None, target=None):
        if name == "logging" and os.getpid() == main:
            spec = PathFinder.find_spec(name)
            spec.loader = Held(name, spec.origin)
            return spec

main, forks = os.getpid(), []
sys.meta_path.insert(0, Holds())
stub = begin()
with socket.create_connection(listener.getsockname()):
    while not forks:
        time.sleep(0.001)
    # So that the thread has nothing more to do afterwards.
    listener.accept()[0].close()
os.register_at_fork(before=lambda: forks.append("begins"))
warnings.simplefilter("error" if HELD == 1 else "ignore")
module._PATIENCE = 30.0 if HELD == 1 else 0.05
child = os.fork()
if not child:
    signal.alarm(5)
    import logging
    logging.getLogger("child").error("its own")
    os._exit(7)
status = os.waitpid(child, 0)[1] >> 8
forks.append("has ended")
import logging
print(status, logging._lock._is_owned(), flush=True)
os._exit(0)
"""


@pytest.mark.version
def test_a_fork_waits_for_the_import_of_logging_and_has_its_lock_in_the_end() -> None:
    assert run("HELD = 1\n" + FORKING, said="its own\n") == "7 False"


@pytest.mark.version
def test_a_child_imports_anew_what_the_thread_was_importing_when_its_fork_had_waited_long_enough() -> None:
    assert run("HELD = 2\n" + FORKING, said="its own\n") == "7 False"


@pytest.mark.parametrize("error", ["None", "open(os.devnull)"])
def test_where_the_agent_cannot_be_loaded_nor_that_be_said_the_application_goes_on(error: str) -> None:
    source = f"""
class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("xpc_agent"):
            raise ImportError("not here")

stub = begin()
sys.meta_path.insert(0, Refuses())
sys.stderr = {error}
stub.load()
print(stub.is_waiting, stub.listener, flush=True)
"""
    assert run(source) == "False -1"


def test_a_program_waits_for_its_verb_but_not_for_long_and_not_at_a_file_of_its_own() -> None:
    source = """
import threading
held, gate = os.pipe()
def hold(number, inode):
    os.environ[module._HOLD] = f"{number} {inode}"
    thread = threading.Thread(target=module._hold)
    thread.start()
    while module._HOLD in os.environ:
        pass
    return thread
inode = os.fstat(held).st_ino
waiting = hold(os.dup(held), inode)
assert not hold(gate, 1).join()  # another file has the number
assert not hold(1000, inode).join()
assert waiting.is_alive()
os.write(gate, b"x")
waiting.join()
os.read(held, 1)
waiting = hold(os.dup(held), inode)
module._HELD = 1
hold(os.dup(held), inode).join()
os.close(gate)
waiting.join()
print(module._HOLD in os.environ, len(os.listdir("/proc/self/fd")))
"""
    # The standard ones, the listener, what is held here, and that of the folder.
    assert run(source) == "False 6"
