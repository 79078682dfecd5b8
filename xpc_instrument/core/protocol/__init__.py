"""Messages, frames and the state machine of a connection: bytes in, events out, no I/O."""
