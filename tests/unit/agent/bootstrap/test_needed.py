"""What comes first of the standard library: nobody finds the half of what is looked up without being imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import xpc_agent

NEEDED = Path(xpc_agent.__file__).parent / "bootstrap" / "needed.py"

# `typing` is slow here: it has run when the test says so.
LOOKED_UP = f"""
import _thread, sys, time
sys.path.insert(0, sys.argv[1])
needed = {{"__name__": "needed"}}
exec(open({str(NEEDED)!r}).read(), needed)
sys.modules.pop("functools", None), sys.modules.pop("typing", None)
sys.shared = shared = {{name: _thread.allocate_lock() for name in ("begun", "may_end", "looked", "ended")}}
for lock in shared.values():
    lock.acquire()
threads = []

def sleep(seconds):
    # Whoever looks has come to wait.
    if threads and _thread.get_ident() != threads[0]:
        shared["looked"].release() if shared["looked"].locked() else None
    time.sleep(seconds)

def load():
    threads.append(_thread.get_ident())
    needed["_LOOKED_UP"] = ("typing",)
    needed["import_looked_up"](_thread.get_ident, sleep)
    shared["ended"].release()

def let_end():
    shared["looked"].acquire()
    shared["may_end"].release()

_thread.start_new_thread(load, ())
_thread.start_new_thread(let_end, ())
shared["begun"].acquire()
typing = sys.modules["typing"]
print(typing.early, typing.late, hasattr(typing, "nothing"))
shared["ended"].acquire()
print(vars(typing).get("__getattr__"), type(typing.__loader__).__name__, typing.__spec__.loader is typing.__loader__, len(sys.meta_path))
"""


def test_who_looks_up_a_module_that_another_thread_runs_waits_for_its_names(tmp_path: Path) -> None:
    (tmp_path / "typing.py").write_text(
        "import sys\nearly = 1\nassert not hasattr(sys.modules[__name__], 'late')\n"
        "sys.shared['begun'].release()\nsys.shared['may_end'].acquire()\nlate = 2\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", LOOKED_UP, str(tmp_path)], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("1 2 False\nNone SourceFileLoader True 3\n", "")
