"""The machine code is that of its source, and keeps to what `injection.py` knows of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import xpc_instrument.attaching
from xpc_instrument.attaching.injection import code

FOLDER = Path(xpc_instrument.attaching.__file__).parent


@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("objcopy")), reason="no assembler for x86-64 here")
def test_the_machine_code_is_that_of_its_source(tmp_path: Path) -> None:
    machine = subprocess.run(["gcc", "-dumpmachine"], capture_output=True, text=True, check=True).stdout
    if not machine.startswith("x86_64"):
        pytest.skip(f"no assembler for x86-64 here: {machine}")
    subprocess.run(["gcc", "-c", "-o", str(tmp_path / "stub.o"), str(FOLDER / "stub.S")], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(tmp_path / "stub.o"), str(tmp_path / "stub.bin")], check=True)
    assert (tmp_path / "stub.bin").read_bytes() == code()


def test_the_addresses_behind_the_code_are_aligned() -> None:
    assert len(code()) % 16 == 0
