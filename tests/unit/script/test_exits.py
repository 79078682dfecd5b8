"""When what a script has left open ends: before its executors, unless threads of its own go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.version

BEGIN = """
import atexit, gc, sys, threading
from xpc_instrument.script.exits import come_first, end_with_script

class Open:
    def end(self):
        thread, process = (sys.modules.get("concurrent.futures." + name) for name in ("thread", "process"))
        print("ended", bool(thread and thread._shutdown), bool(process and process._global_shutdown), flush=True)

one = Open()
atexit.register(print, "at exit")
"""


def _says(source: str) -> str:
    done = subprocess.run([sys.executable, "-c", BEGIN + source], capture_output=True, text=True, timeout=50, check=False)
    assert done.stderr == ""
    return done.stdout


def test_it_ends_before_executors_also_those_imported_later() -> None:
    assert _says("end_with_script(one, Open.end)").startswith("ended False False\n")
    assert _says("end_with_script(one, Open.end); import concurrent.futures.process; come_first()").startswith("ended False False\n")


def test_idle_workers_of_executors_do_not_count_as_threads_that_go_on() -> None:
    source = "from concurrent.futures import ThreadPoolExecutor; pool = ThreadPoolExecutor(); pool.submit(int).result(); end_with_script(one, Open.end)"
    assert _says(source).startswith("ended False False\n")


def test_a_thread_that_goes_on_keeps_it_until_exit() -> None:
    source = """
end_with_script(one, Open.end)
threading.Thread(target=lambda: (threading.main_thread().join(), print("alone", flush=True))).start()
"""
    said = _says(source).splitlines()
    assert said[0] == "alone"
    assert "ended True False" in said


def test_where_threading_has_no_place_for_it_exit_has() -> None:
    source = "import concurrent.futures.thread; del threading._register_atexit; end_with_script(one, Open.end)"
    assert "ended True False\n" in _says(source)


def test_what_has_gone_or_fails_keeps_nothing_from_ending() -> None:
    source = """
import logging
logging.disable()
class Broken(Open):
    def end(self):
        super().end()
        raise ValueError
two = Broken()
end_with_script(two, Broken.end)
end_with_script(Broken(), Broken.end)
gc.collect()
end_with_script(one, Open.end)
"""
    assert _says(source).splitlines() == ["ended False False"] * 2 + ["ended True False"] * 2 + ["at exit"]
