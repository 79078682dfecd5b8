"""10,000 captures and evaluations of each value that notes what is done to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_of_an_application_runs_however_often_its_values_are_looked_at() -> None:
    words = [sys.executable, "-m", "tests.heavy.hostile_values"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert (done.returncode, done.stdout.split(" for ")[0]) == (0, "nothing ran"), done.stdout + done.stderr
