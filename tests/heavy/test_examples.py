"""The examples whose tests take long: they pass where their README says to run them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable

import pytest

from tests.programs import PATIENCE, Program

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_tests_of_the_fastapi_shop_pass(run_program: Callable[..., Program]) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    folder = EXAMPLES / "fastapi_shop"
    program = run_program(command=["sh", "-c", "exec pytest -p no:cacheprovider"], cwd=folder, env={"PATH": path})
    assert program.wait(1.7 * PATIENCE) == 0, program.text
    assert "10 passed" in program.text
