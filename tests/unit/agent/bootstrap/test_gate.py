"""What is run first in a process that is attached to: forks wait for what is imported then, whatever it registers for forks itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import xpc_agent

GATE = Path(xpc_agent.__file__).parent / "bootstrap" / "gate.py"

# It has not imported `logging`, and a fork comes before that is imported in the other thread.
PROGRAM = """
import _thread, os, sys
begun, asked = [], []
with open(sys.argv[1]) as file:
    text = file.read()
_thread.start_new_thread(exec, (text, {"path": sys.argv[2] + "/start.py", "begun": begun, "asked": asked}))
while not begun:
    pass
assert "logging" not in sys.modules
os.register_at_fork(before=lambda: asked.append(True))
child = os.fork()
import logging
if not child:
    logging.error("the child")
    os._exit(7)
print(os.waitpid(child, 0)[1] >> 8, len(os.listdir("/proc/self/task")), logging._lock._is_owned(), os.path.exists(sys.argv[2]))
"""
REST = """
def run(gate, folder):
    begun.append(True)
    while not asked:
        sleep(0.001)
    gate.come_first()
    sleep(0.01)
"""


@pytest.mark.version
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes /proc")
def test_a_fork_waits_while_logging_is_imported_and_has_its_lock_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "attached.py").write_text(REST)
    (tmp_path / "start.py").write_text("")
    command = [sys.executable, "-W", "error", "-I", "-c", PROGRAM, str(GATE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "ERROR:root:the child\n")
    # The thread was gone before the fork, the lock is free after it, and the folder is removed.
    assert done.stdout == "7 1 False False\n"
