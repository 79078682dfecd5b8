"""The probe script: `python -m benchmarks.probe_script APPLICATION [KEY]`. It registers one hook in each mode, and answers any line with
how often each was called, in JSON."""

from __future__ import annotations

import json
import sys
from typing import Any, Dict

import xpc_instrument

from . import targets


def main() -> None:
    counts = dict.fromkeys(targets.MODES, 0)

    def before(call: Any) -> None:
        counts["before"] += 1

    def around(call: Any) -> Any:
        counts["around"] += 1
        return call.proceed()

    def instead(amount: int, currency: str = "EUR") -> Dict[str, Any]:
        counts["instead"] += 1
        return targets.STAND_IN

    key = sys.argv[2] if len(sys.argv) > 2 else None
    with xpc_instrument.connect(sys.argv[1], authkey=key) as app:
        app.before(f"{targets.__name__}:before", before)
        app.around(f"{targets.__name__}:around", around)
        app.instead(f"{targets.__name__}:instead", instead)
        print("ready", flush=True)
        for _ in sys.stdin:
            print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
