"""The memory of another process: what is mapped where, and the dynamic symbols of the ELF files in it.

Symbols are looked up in memory and not in the files, which may lie in another mount namespace, or have been replaced by an upgrade.
"""

from __future__ import annotations

import os
import re
import struct
from types import TracebackType
from typing import Dict, List, NamedTuple, Optional, Tuple, Type

# Of the ELF format: ELFCLASS64 and ELFDATA2LSB; PT_LOAD, PT_DYNAMIC; PF_X.
_IDENT = b"\x7fELF\x02\x01"
_LOAD, _DYNAMIC = 1, 2
_EXECUTABLE = 1
_HASH, _STRTAB, _SYMTAB, _GNU_HASH = 4, 5, 6, 0x6FFFFEF5
# An indirect function: its value is that of a function that chooses one.
_IFUNC = 10
EM_X86_64 = 62
# More than any has, so that garbage ends a search.
_MOST = 1 << 20

_MAP = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ (\d+) *(.*)")


class Mapping(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    access: str
    offset: int
    inode: int
    path: str


def mappings(pid: int) -> List[Mapping]:
    """What a process has mapped. OSError if that may not be seen."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            match = _MAP.match(line.rstrip("\n"))
            if match is not None:
                start, end, access, offset, inode, path = match.groups()
                found.append(Mapping(int(start, 16), int(end, 16), access, int(offset, 16), int(inode), path))
    return found


class Memory:
    """Reads, and writes if it may, where the other process has mapped something. A context manager; OSError if it may not be opened."""

    def __init__(self, pid: int, writable: bool = False) -> None:
        self._descriptor = os.open(f"/proc/{pid}/mem", (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)

    def read(self, address: int, size: int) -> bytes:
        """So many bytes. OSError where they are not mapped, or the process has ended."""
        data = os.pread(self._descriptor, size, address)
        if len(data) != size:
            raise OSError(f"{size} bytes at {address:#x} cannot be read")
        return data

    def write(self, address: int, data: bytes) -> None:
        """Also where the process itself may not write. OSError where nothing is mapped, or the process has ended."""
        if os.pwrite(self._descriptor, data, address) != len(data):
            raise OSError(f"{len(data)} bytes at {address:#x} cannot be written")

    def text(self, address: int, longest: int = 256) -> bytes:
        """Up to the next zero."""
        data = b""
        while len(data) < longest:
            # Not over the end of a page, behind which nothing may be.
            piece = self.read(address + len(data), min(64, 4096 - (address + len(data)) % 4096))
            data += piece
            if b"\0" in piece:
                break
        return data.partition(b"\0")[0]

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()


class Image:
    """An ELF file as it is mapped. ValueError or OSError if it is none of 64 bits."""

    def __init__(self, memory: Memory, path: str, parts: List[Mapping]) -> None:
        self.path = path
        self.name = os.path.basename(path[: -len(" (deleted)")] if path.endswith(" (deleted)") else path)
        self.parts = parts
        self._memory = memory
        base = min(part.start for part in parts if part.offset == 0)
        header = memory.read(base, 64)
        if header[:6] != _IDENT:
            raise ValueError(f"{path} is no ELF file of 64 bits")
        (self.machine,) = struct.unpack_from("<H", header, 18)
        (at,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        self._loads: List[Tuple[int, int, int]] = []
        dynamic = 0
        table = memory.read(base + at, size * count)
        for number in range(count):
            kind, flags, offset, address, _, in_file, _, _ = struct.unpack_from("<IIQQQQQQ", table, number * size)
            if kind == _LOAD:
                self._loads.append((flags, address, in_file))
                if offset == 0:
                    self.bias = base - address
            elif kind == _DYNAMIC:
                dynamic = address
        if not self._loads or not hasattr(self, "bias"):
            raise ValueError(f"{path} has nothing to load")
        self._dynamic = self._read_dynamic(self.bias + dynamic) if dynamic else {}

    def _read_dynamic(self, address: int) -> Dict[int, int]:
        found: Dict[int, int] = {}
        for number in range(512):
            tag, value = struct.unpack("<qQ", self._memory.read(address + 16 * number, 16))
            if tag == 0:
                break
            found.setdefault(tag, value)
        return found

    def _table(self, tag: int) -> int:
        """Where a table is. glibc's loader has put addresses in place of what the file says, musl's has not."""
        value = self._dynamic[tag]
        return value if value >= min(part.start for part in self.parts) else self.bias + value

    def symbol(self, name: str) -> Optional[int]:
        """The address of what is exported under that name; None if nothing is."""
        if _SYMTAB not in self._dynamic or _STRTAB not in self._dynamic:
            return None
        if _GNU_HASH in self._dynamic:
            return self._by_gnu_hash(name.encode())
        return self._by_hash(name.encode()) if _HASH in self._dynamic else None

    def _by_gnu_hash(self, name: bytes) -> Optional[int]:
        table = self._table(_GNU_HASH)
        buckets, first, words, _ = self._numbers(table, 4)
        if not buckets:
            return None
        wanted = 5381
        for letter in name:
            wanted = (wanted * 33 + letter) & 0xFFFFFFFF
        at = table + 16 + 8 * words
        (index,) = self._numbers(at + 4 * (wanted % buckets), 1)
        if index < first:
            return None
        for number in range(index, index + _MOST):
            (value,) = self._numbers(at + 4 * buckets + 4 * (number - first), 1)
            if value | 1 == wanted | 1:
                address = self._exported(number, name)
                if address is not None:
                    return address
            if value & 1:
                return None
        return None

    def _by_hash(self, name: bytes) -> Optional[int]:
        table = self._table(_HASH)
        buckets, _ = self._numbers(table, 2)
        value = 0
        for letter in name:
            value = (value << 4) + letter
            value = (value ^ (value >> 24 & 0xF0)) & 0x0FFFFFFF
        (number,) = self._numbers(table + 8 + 4 * (value % buckets), 1)
        for _ in range(_MOST):
            if number == 0:
                return None
            address = self._exported(number, name)
            if address is not None:
                return address
            (number,) = self._numbers(table + 8 + 4 * (buckets + number), 1)
        return None

    def _exported(self, number: int, name: bytes) -> Optional[int]:
        at, info, _, section, value, _ = struct.unpack("<IBBHQQ", self._memory.read(self._table(_SYMTAB) + 24 * number, 24))
        if not section or info & 15 == _IFUNC or self._memory.text(self._table(_STRTAB) + at, len(name) + 1) != name:
            return None
        return int(self.bias + value)

    def _numbers(self, address: int, count: int) -> Tuple[int, ...]:
        return struct.unpack(f"<{count}I", self._memory.read(address, 4 * count))

    def slack(self) -> Optional[Tuple[int, int]]:
        """(address, size) of the rest of the last page of its code, where nothing of the program is; None if there is no rest."""
        for flags, address, in_file in self._loads:
            if flags & _EXECUTABLE:
                last = (self.bias + address + in_file + 15) & ~15
                for part in self.parts:
                    if "x" in part.access and part.start < last < part.end:
                        return last, part.end - last
        return None


def images(memory: Memory, maps: List[Mapping]) -> List[Image]:
    """The ELF files with code in them that a process has mapped; those that cannot be read are left out."""
    parts: Dict[Tuple[int, str], List[Mapping]] = {}
    for one in maps:
        if one.path.startswith("/"):
            parts.setdefault((one.inode, one.path), []).append(one)
    found = []
    for (_, path), own in parts.items():
        if any("x" in one.access for one in own) and any(one.offset == 0 for one in own):
            try:
                found.append(Image(memory, path, own))
            except (OSError, ValueError, struct.error):
                continue  # a file of another kind, such as one of the machine code of a compiler at run time
    return found
