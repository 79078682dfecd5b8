"""The table of `stat` on terminals of all widths."""

from __future__ import annotations

from xpc_instrument.cli.stat import _table
from xpc_instrument.verbs.events import STAT_NUMBERS


def test_no_line_is_broken_where_the_terminal_is_narrow() -> None:
    columns = ["currency", "target", *STAT_NUMBERS]
    row = ["EUR", "shop.checkout:charge", "104", "98300.25", "945.19", "900.5", "2100.75", "4200.5"]
    wide = _table(columns, [row], 2, 80)
    assert wide == _table(columns, [row], 2, 0)
    narrow = _table(columns, [row], 2, 60)
    assert [line.split() for line in narrow] == [["currency", "target", "count", "p50", "max"], [*row[:3], row[5], row[7]]]
    assert max(map(len, narrow)) <= 60 < max(map(len, wide))
