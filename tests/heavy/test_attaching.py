"""A short run of the long proof of attaching (`python3 dev.py attach`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.attaching.proof import why_not

ROOT = Path(__file__).resolve().parents[2]
_REFUSED = why_not() if sys.platform.startswith("linux") else "takes Linux"


@pytest.mark.skipif(bool(_REFUSED), reason=f"nothing can be attached to here: {_REFUSED}")
@pytest.mark.timeout(300)
def test_programs_of_all_kinds_are_as_they_were() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.attaching", "--times", "3", "--kills", "50", "--moments", "10", "--pairs", "5", "--traced", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.endswith("all as it was\n"), done.stdout
