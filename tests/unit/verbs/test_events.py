"""What is shown of values, tables and histograms."""

from __future__ import annotations

from typing import Any

from xpc_instrument.core.model import aggregate
from xpc_instrument.script.counted import MonitorRow, StatRow
from xpc_instrument.verbs import events
from xpc_instrument.verbs.events import aligned, histogram_text, monitor_cells, number_text, stat_cells, stat_json, value_text


def test_long_values_are_cut_for_people() -> None:
    assert len(value_text("x" * 1000)) == 120
    assert value_text("x") == "'x'"


def test_columns_are_aligned_and_the_first_is_cut_where_the_terminal_is_narrow() -> None:
    rows = [["shop.checkout:charge", "117"], ["shop:a", "3"]]
    assert aligned(["target", "calls"], rows) == [
        "target                calls",
        "shop.checkout:charge    117",
        "shop:a                    3",
    ]
    assert aligned(["target", "calls"], rows, width=20)[1] == "…ckout:charge    117"
    assert {len(line) for line in aligned(["target", "calls"], rows, width=3)} == {15}


def row_of(*values: float, key: Any = ()) -> StatRow:
    cell = aggregate.new_cell()
    for value in values:
        aggregate.count(cell, value)
    return StatRow(key, len(values), sum(values), 2.0, min(values), 2.0, 2.0, max(values), 0, tuple(aggregate.octaves(cell)))


def test_a_histogram_has_a_line_for_each_power_of_two() -> None:
    assert histogram_text(row_of(1, 1, 2, 8), False, 4) == [
        " [1, 2)  2 |@@@@|",
        " [2, 4)  1 |@@  |",
        " [4, 8)  0 |    |",
        "[8, 16)  1 |@@  |",
    ]


def test_keys_go_by_the_expressions_that_were_typed() -> None:
    assert stat_cells(row_of(1, 3, key=("EUR", None)), False)[:3] == ["EUR", "None", "2"]
    assert stat_json(row_of(1, 3, key=("EUR", None)), ["currency", "x.y"])["x.y"] is None
    assert stat_json(row_of(1, key=("(other)",)), ["currency", "x.y"])["currency"] == "(other)"


def test_numbers_have_four_digits_and_times_a_unit() -> None:
    assert [number_text(one, False) for one in (3, 1234.56, 0.123456, 10**20)] == ["3", "1235", "0.1235", str(10**20)]
    assert number_text(0.0382, True) == "38.2ms"


def test_an_interval_without_calls_has_no_times() -> None:
    assert monitor_cells(MonitorRow("shop:a", 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)) == ["shop:a", "0", "0.0", "0", *["-"] * 5]
    assert monitor_cells(MonitorRow("shop:a", 4, 1, 2.0, 0.1, 0.1, 0.1, 0.1, 0.1))[3] == "1 25.0%"
    assert events.clock(0.5).endswith(".500")


def test_times_of_json_have_milliseconds() -> None:
    assert events.utc(1764331445.112) == "2025-11-28T12:04:05.112Z"
    assert [events.utc(one)[-7:] for one in (0.0, 1.9999999, 1.0009996)] == ["00.000Z", "01.999Z", "01.001Z"]
