"""What all tests of values have."""

from __future__ import annotations

import sys

import pytest

from tests.unit.core.values.elsewhere import Foreign


@pytest.fixture(autouse=True)
def main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "Foreign", Foreign, raising=False)
