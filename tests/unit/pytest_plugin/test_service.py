"""What is refused before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from xpc_instrument.pytest_plugin.service import Service, Settings

GOOD = Settings("python -m shop {port}", "tcp:{port}", 5.0, (), Path("."), "", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (GOOD._replace(command=""), "it is not said how the application is started: set xpc_command"),
        (GOOD._replace(ready="soon"), "xpc_ready = 'soon': expected a URL, tcp:PORT, or /regex/ of its output"),
        (GOOD._replace(ready="tcp:http"), "expected a URL, tcp:PORT"),
        (GOOD._replace(ready="/(/"), r"xpc_ready = '/\(/': no regular expression: "),
        (GOOD._replace(app="nobody", timeout=0.0), "--xpc-app nobody: no instrumented application is called 'nobody'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "settings",
)
def test_settings_that_cannot_work_are_refused_with_what_is_expected(settings: Settings, message: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=message):
        Service(settings)
