"""When a hook counts as late."""

from __future__ import annotations

import pytest

from xpc_instrument.script.serving import was_late


@pytest.mark.parametrize(
    ("seconds", "since", "late"),
    [
        (1.2, 0.0, True),
        (1.2, 60.0, True),
        # The call was on its way before it arrived, and the lane had gone when it was answered.
        (0.999, 0.0, True),
        (0.985, 0.001, True),
        # It was in time, and the process has ended since.
        (0.999, 0.2, False),
        # Something else has taken the lane away.
        (0.5, 0.0, False),
    ],
)
def test_a_hook_was_late_if_its_lane_had_gone_at_about_its_deadline(seconds: float, since: float, late: bool) -> None:
    assert was_late(seconds, since, 1.0) is late


def test_a_short_deadline_is_not_all_way() -> None:
    assert (was_late(0.008, 0.0, 0.01), was_late(0.002, 0.0, 0.01)) == (True, False)
