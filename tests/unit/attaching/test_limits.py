"""What a process, and its container, may still use."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, List

import pytest

from xpc_instrument.attaching import job
from xpc_instrument.attaching.limits import shortages


def container(root: Path, files: Dict[str, str], version: int) -> Path:
    """Control groups of the kernel's first or second version with these files, in each of the folders that this process may be in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for controller in names.split(",") if version == 1 else [""]:
            folder = Path(root, controller, path.lstrip("/"))
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(text + "\n")
    return root


def texts(root: Path) -> List[str]:
    return [re.sub(r"\(/.*?\)", "(FOLDER)", one.text) for one in shortages(os.getpid(), root)]


MIB = 1 << 20


@pytest.mark.skipif(not os.path.exists("/proc/self/cgroup"), reason="takes Linux")
@pytest.mark.parametrize(
    ("version", "files", "told"),
    [
        (2, {"memory.max": "max", "memory.current": f"{900 * MIB}", "pids.max": "max", "pids.current": "100"}, []),
        (2, {"memory.max": f"{512 * MIB}", "memory.current": f"{480 * MIB}"}, []),
        (2, {"memory.max": f"{512 * MIB}", "memory.current": f"{500 * MIB}"}, ["memory"]),
        (2, {"memory.max": f"{512 * MIB}", "memory.current": f"{512 * MIB}", "memory.stat": f"anon 1\ninactive_file {90 * MIB}"}, []),
        (1, {"memory.limit_in_bytes": f"{512 * MIB}", "memory.usage_in_bytes": f"{500 * MIB}"}, ["memory"]),
        (
            1,
            {
                "memory.limit_in_bytes": f"{512 * MIB}",
                "memory.usage_in_bytes": f"{500 * MIB}",
                "memory.stat": f"total_active_file {MIB * 30}",
            },
            [],
        ),
        (1, {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": f"{500 * MIB}"}, []),
        (2, {"pids.max": "100", "pids.current": "97"}, ["pids"]),
        (2, {"pids.max": "100", "pids.current": "96"}, []),
        (2, {"memory.max": "junk"}, []),
    ],
)
def test_a_container_that_is_nearly_full_is_told(version: int, files: Dict[str, str], told: List[str], tmp_path: Path) -> None:
    expected = {
        "memory": "its container (FOLDER) uses 500 MiB of memory, and may use 512; the agent takes 24",
        "pids": "its container (FOLDER) has 97 threads and processes, and may have 100; the agent starts up to 4",
    }
    names = [line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    if version == 1 and not any("memory" in one.split(",") for one in names):
        pytest.skip("this system has no control groups of the first version")
    if version == 2 and "" not in names:
        pytest.skip("this system has no control groups of the second version")
    assert texts(container(tmp_path, files, version)) == [expected[one] for one in told]


def test_a_file_system_without_room_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.open("/", os.O_RDONLY)
    real = os.fstatvfs(folder)

    def having(**changes: int) -> Any:
        fields = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")}
        return type("Statvfs", (), {**fields, "f_frsize": 4096, "f_blocks": 1000, "f_files": 1000, "f_favail": 100, **changes})()

    try:
        for changes, has in (
            ({"f_bavail": 900}, True),
            ({"f_bavail": 10}, False),
            ({"f_bavail": 0, "f_blocks": 0}, True),
            ({"f_bavail": 900, "f_favail": 2}, False),
            ({"f_bavail": 900, "f_favail": 0, "f_files": 0}, True),
        ):
            monkeypatch.setattr(os, "fstatvfs", lambda _, changes=changes: having(**changes))
            assert job._has_room(folder, True) is has, changes
        monkeypatch.setattr(os, "fstatvfs", lambda _: having(f_bavail=900))
        assert not job._has_room(folder, False)
    finally:
        os.close(folder)
