"""One target under atheris: `python -m tests.fuzz.coverage TARGET [FLAGS OF LIBFUZZER...] CORPUS`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["xpc_instrument.core", "json"]):
    from tests.fuzz.targets import TARGETS, arm


def main() -> None:
    arm()
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
