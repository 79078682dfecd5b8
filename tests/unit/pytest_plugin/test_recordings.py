"""What the recordings of tests are called."""

from __future__ import annotations

from xpc_instrument.pytest_plugin.recordings import file_name


def test_each_test_has_a_file_of_its_own_with_its_name() -> None:
    assert file_name("tests/test_it.py::TestA::test_b") == "tests.test_it.py_TestA_test_b"
    assert file_name("", "gw1") == "session-gw1"
    others = [f"test_it.py::test_names[{one}]" for one in ("a b:c", "a_b_c", "a/b", "a.b", "\u00e4", "x" * 300, "x" * 301, "..")]
    names = [file_name(one) for one in others]
    assert len(set(names)) == len(others)
    assert all(len(one) < 170 and "/" not in one and one.startswith("test_it.py_test_names") for one in names)
