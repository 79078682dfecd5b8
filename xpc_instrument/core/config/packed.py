"""A config as one line of text, in which a process hands it to its children through the environment.

What comes back through `unpack` passes the same checks as what a user wrote: there is one reader of values.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict

from ..model.errors import ConfigError
from ..model.record import Record, as_dict
from ..model.target import MODES
from .document import FILE_LIMIT, read_document
from .rules import Reader
from .schema import Config

_LONG = 16 << 10  # bytes; a shorter config can be read by eye in the environment

_COMPRESSED = "zlib:"


def pack(config: Config) -> str:
    """A config as one line of ASCII for an environment variable, compressed if it is long; the inverse of `unpack`."""
    defaults = _document(config.defaults)
    document = {
        "app": config.app,
        "manager": _document(config.manager),
        "limits": _document(config.limits),
        "on-demand": list(config.on_demand),
        "redact": _document(config.redact),
        "defaults": defaults,
        "probe": [{key: value for key, value in _document(probe).items() if defaults.get(key) != value} for probe in config.probes],
    }
    text = json.dumps({"path": config.path, "config": document})
    if len(text) <= _LONG:
        return text
    import base64
    import zlib

    return _COMPRESSED + base64.b64encode(zlib.compress(text.encode("ascii"))).decode("ascii")


def unpack(text: str) -> Config:
    """The config that `pack` made `text` of; ConfigError if it is anything else."""
    source = "the config handed over by the parent process"
    try:
        envelope = json.loads(_expanded(text))
        path, document = envelope["path"], envelope["config"]
        if not (path is None or isinstance(path, str)) or not isinstance(document, dict) or len(envelope) != 2:
            raise TypeError("not the shape that pack gives")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        remedy = "expected what pack gives; both sides need the same version of xpc-instrument"
        raise ConfigError(f"{source}: cannot be read ({error}); {remedy}") from error
    return read_document(Reader(source, {}, (), os.sep), document, path)


def _expanded(text: str) -> str:
    """The JSON in what `pack` gives. ValueError if it is none, or longer than a config file may be."""
    if not text.startswith(_COMPRESSED):
        return text
    import base64
    import zlib

    try:
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(base64.b64decode(text[len(_COMPRESSED) :], validate=True), FILE_LIMIT)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not decompressor.eof:
        raise ValueError(f"it is cut off, or over {FILE_LIMIT} bytes")
    return data.decode("ascii")


def _document(part: Record) -> Dict[str, Any]:
    """A part of a config in the spelling of the file: the inverse of `Reader.table`."""
    return {name.replace("_", "-"): _spelled(value) for name, value in as_dict(part).items() if value is not None}


def _spelled(value: Any) -> Any:
    if isinstance(value, frozenset):
        return [name for name, mode in MODES.items() if mode in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
