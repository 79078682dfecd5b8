"""`python -m xpc_instrument.cli`."""

from . import entry

entry()
