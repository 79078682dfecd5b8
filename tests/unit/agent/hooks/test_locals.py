"""The variables of frames that have failed, and the dicts that Python up to 3.12 keeps of them."""

from __future__ import annotations

import weakref
from typing import Any, Dict, List, Tuple

from xpc_agent.hooks.locals import Locals
from xpc_instrument.core.values.captures import Capturer
from xpc_instrument.core.values.redaction import Redaction


class Order:
    pass


def fails(order: Any) -> None:
    number = 7
    raise ValueError(number)


def captured(error: BaseException) -> Dict[str, Any]:
    variables = Locals(error, Capturer(), Redaction()).frames(0)[-1][3]
    assert variables is not None
    return dict(variables)


def reports(order: Any) -> Tuple[Any, Dict[str, Any]]:
    """What somebody who reports errors holds of the frame that has failed, and what was captured of it after that."""
    try:
        fails(order)
    except ValueError as error:
        trace: Any = error.__traceback__
        return trace.tb_next.tb_frame.f_locals, captured(error)
    raise AssertionError


def test_a_dict_of_variables_that_somebody_holds_stays_as_it_is() -> None:
    order = Order()
    held, variables = reports(order)
    assert variables["number"] == 7
    assert dict(held) == {"number": 7, "order": order}


def deletes(seen: List[Any]) -> bool:
    order = Order()
    seen.append(weakref.ref(order))
    try:
        raise ValueError
    except ValueError as error:
        seen.append(captured(error))
    del order
    return seen[0]() is None


def test_a_frame_keeps_nothing_of_what_was_read() -> None:
    seen: List[Any] = []
    assert deletes(seen)
    assert "order" in seen[1]
