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


@pytest.mark.parametrize(("shop", "summary"), [("shop", "6 failed, 1 passed, 1 error"), ("fastapi_shop", "5 failed, 1 passed, 1 error")])
def test_each_kind_of_failure_is_reported(run_program: Callable[..., Program], shop: str, summary: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    command = ["sh", "-c", "exec pytest -p no:cacheprovider failures.py"]
    program = run_program(command=command, cwd=EXAMPLES / shop, env={"PATH": path})
    assert program.wait(1.7 * PATIENCE) == 1, program.text
    assert summary in program.text
    assert "too dear for this test" in program.text
