"""What is to be done when a fork has returned: right after it, in the thread that has forked, and nothing of it stays."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, _thread
from xpc_agent.life import fork_return

fork_return.COUNTS_LATE = True
done = []

def go_on(what):
    done.append(what)

def registered():
    caller = sys._getframe().f_back
    for what in wanted:
        fork_return.when_returned(caller, lambda what=what: go_on(what))
    done.append("registered")

def fork():
    child = os.fork() or os._exit(0)
    done.append("runs on")
    os.waitpid(child, 0)

def forked():
    return os.fork() or os._exit(0)

def result():
    found = done[:]
    done.clear()
    tools = sys.monitoring
    assert [tools.get_tool(number) for number in range(6)] == [None] * 6
    tools.use_tool_id(4, "test")
    assert not any(tools.get_local_events(4, code.__code__) for code in (fork, forked))
    tools.free_tool_id(4)
    return found

os.register_at_fork(before=fork_return.catch_up, after_in_parent=registered)
wanted = ["first", "second"]
fork()
assert result() == ["registered", "first", "second", "runs on"], done
# With the return of what has forked; and what the next fork finds undone is done before it.
os.waitpid(forked(), 0)
assert result() == ["registered", "first", "second"]
fork_return.when_returned(sys._getframe(), lambda: go_on("left"))
fork_return.catch_up()
assert result() == ["left"]
# Where the fork warns anyway, or nobody can tell of its return, nothing waits.
held = _thread.allocate_lock()
held.acquire()
_thread.start_new_thread(held.acquire, ())
while len(os.listdir("/proc/self/task")) == 1:
    pass
import warnings
warnings.simplefilter("ignore")
fork()
assert result() == ["first", "second", "registered", "runs on"], done
held.release()
while len(os.listdir("/proc/self/task")) > 1:
    pass
for number in (3, 4, 5):
    sys.monitoring.use_tool_id(number, "another")
fork()
for number in (3, 4, 5):
    sys.monitoring.free_tool_id(number)
assert result() == ["first", "second", "registered", "runs on"], done
"""


@pytest.mark.version
@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes /proc")
def test_what_waits_for_a_fork_is_done_as_the_thread_runs_on_in_what_has_called_it() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
