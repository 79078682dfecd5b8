"""A whole document becomes one `Config`, or one `ConfigError` that has a line for every mistake in it.

The rules of single values are in `rules`; here are those that hold between several keys. They are looked at when each value is right by
itself.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Tuple

from ..discovery.name import app_name
from ..model.errors import ConfigError
from ..model.limits import DEFAULT_LIMITS, Limits
from ..model.loopback import is_beyond_loopback
from ..model.record import defaults
from ..model.words import quoted
from .rules import TABLES, KeyPath, Reader
from .schema import Config, DefaultsConfig, ManagerConfig, RedactConfig

FILE_LIMIT = 16 << 20  # bytes; no config is larger, and `--config /dev/zero` has to end


def read_document(reader: Reader, document: object, path: Optional[str]) -> Config:
    """The config in what a parser gave; `path` is the file that it came from. Raises `ConfigError`."""
    where = reader.prefix
    found = reader.table(where, document, TABLES["the top of the file"])
    manager = found.get("manager", {})
    address = manager.get("address")
    if isinstance(address, str) and address.startswith("tcp:") and "authkey_file" not in manager:
        problem = 'a tcp address without a key; expected authkey-file = "FILE" beside it: anybody can reach a TCP port'
        reader.report((*where, "manager", "address"), problem)
    if not reader.mistakes:
        _check_tls(reader, (*where, "manager"), manager)
    limits = found.get("limits", {})
    heartbeat, silence = limits.get("heartbeat", DEFAULT_LIMITS.heartbeat), limits.get("silence", DEFAULT_LIMITS.silence)
    if not reader.mistakes and heartbeat >= silence:
        key = "heartbeat" if "heartbeat" in limits else "silence"
        problem = f"heartbeat is {heartbeat:g} and silence {silence:g}; expected a heartbeat below silence, or nobody is ever heard in time"
        reader.report((*where, "limits", key), problem)
    if not reader.mistakes:
        _check_pauses(reader, where, found)
    if reader.mistakes:
        raise ConfigError("\n".join(text for _, text in sorted(reader.mistakes, key=lambda mistake: mistake[0])))
    inherited = DefaultsConfig(**found.get("defaults", {}))
    return Config(
        app=found["app"] if "app" in found else app_name(os.path.basename(reader.folder)),
        manager=ManagerConfig(**manager),
        limits=Limits(**limits),
        probes=tuple(inherited.probe(**probe) for probe in found.get("probe", ())),
        on_demand=found.get("on_demand", ()),
        path=path,
        defaults=inherited,
        redact=RedactConfig(**found.get("redact", {})),
    )


def _check_pauses(reader: Reader, where: KeyPath, found: Dict[str, Any]) -> None:
    """The first pause of a suspended hook is within the longest, in [defaults] and in each [[probe]], which inherits from there."""
    inherited = found.get("defaults", {})
    tables: List[Tuple[KeyPath, Dict[str, Any]]] = [((*where, "defaults"), inherited)]
    tables += [((*where, "probe", number), probe) for number, probe in enumerate(found.get("probe", ()))]
    for place, table in tables:
        given = [key for key in ("suspend_for", "suspend_at_most") if key in table]
        if not given:
            continue
        settings = {**defaults(DefaultsConfig), **inherited, **table}
        first, longest = settings["suspend_for"], settings["suspend_at_most"]
        if first > longest:
            problem = f"suspend-for is {first:g} and suspend-at-most {longest:g}; expected a first pause that is no longer than the longest"
            reader.report((*place, given[0].replace("_", "-")), problem)


_TLS_KEYS = ("tls-certificate", "tls-key", "tls-ca")


def _check_tls(reader: Reader, where: KeyPath, manager: Dict[str, Any]) -> None:
    """All of the three or none; for a tcp address only; and beyond loopback not none, unless the config says so."""
    given = [key for key in _TLS_KEYS if key.replace("-", "_") in manager]
    for key in _TLS_KEYS if given else ():
        if key not in given:
            problem = f"{key} is missing; expected all three of {', '.join(_TLS_KEYS)}, or none of them"
            reader.report((*where, given[0]), problem)
    address = manager.get("address", "unix")
    if not isinstance(address, str):
        return
    if given and not address.startswith("tcp:"):
        seen = f"TLS for the address {quoted(address)}"
        reader.report((*where, given[0]), f"{seen}; expected it with a tcp address only: a unix socket is private by its mode")
    endpoint = ManagerConfig(address).endpoint
    host = endpoint[0] if isinstance(endpoint, tuple) else ""
    if is_beyond_loopback(host) and not given and manager.get("plaintext_beyond_loopback") is not True:
        reader.report(
            (*where, "address"),
            f"{quoted(address)} is beyond loopback, and without TLS everybody on the way can read and change what crosses; expected "
            "tls-certificate, tls-key and tls-ca (`xpc-instrument certificates` makes them), or plaintext-beyond-loopback = true",
        )
