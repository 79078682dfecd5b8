"""A small shop. It knows nothing of xpc-instrument."""
