"""What mypy says of scripts, and Python of names that are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from xpc_instrument.core.model.limits import Limits
from xpc_instrument.script.session import Session

ROOT = Path(__file__).resolve().parents[3]

RIGHT = """
from xpc_instrument import Call, Handle, connect

app = connect("shop")

def hook(call: Call) -> None: ...

handle: Handle = app.before("shop:charge", hook, limit=1, expires=2.0, sample=0.5, rate=10, wait=False)
handle = app.after("shop:charge", hook, sample=0.5, wait=False)
handle = app.around("shop:charge", hook, sample=0.5, timeout=5, raises=TimeoutError)
handle = app.around("shop:charge", hook, raises=(OSError, KeyError))
handle = app.instead("shop:charge", hook, expires=2, timeout=0.5)

@handle.on_failure
def tell(error: BaseException) -> None: ...

@app.before("shop:charge", sample=0.1)
def decorated(call: Call) -> int:
    return 1

number: int = decorated(Call.__new__(Call))
"""

WRONG = [
    'app.before("shop:charge", print, smaple=0.5)',
    '@app.after("shop:charge", smaple=0.5)\ndef hook(call: object) -> None: ...',
    'app.around("shop:charge", print, sample="often")',
    'app.around("shop:charge", print, wait=False)',
    'app.around("shop:charge", print, raises=BaseException)',
    'app.around("shop:charge", print, raises="KeyError")',
    'app.instead("shop:charge", print, raises=KeyError)',
    'app.before("shop:charge", print, timeout="1")',
    'app.instead("shop:charge", print, limit=0.5)',
    "app.before(print)",
]


def test_mypy_takes_what_is_right_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    head = 'import xpc_instrument\n\napp = xpc_instrument.connect("shop")\n\n'
    (tmp_path / "right.py").write_text(RIGHT)
    for number, text in enumerate(WRONG):
        (tmp_path / f"wrong{number}.py").write_text(f"{head}{text}\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", *map(str, sorted(tmp_path.glob("*.py")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    refused = {Path(line.partition(":")[0]).stem for line in done.stdout.splitlines() if ": error:" in line}
    assert refused == {f"wrong{number}" for number in range(len(WRONG))}, done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["before", "after", "around", "instead"])
def test_python_refuses_an_option_that_there_is_not(mode: str) -> None:
    with Session(Limits(), b"") as session, pytest.raises(TypeError, match="smaple"):
        getattr(session, mode)("shop:charge", print, smaple=0.5)
