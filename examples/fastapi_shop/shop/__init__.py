"""A small shop, all of it asynchronous. It knows nothing of xpc-instrument."""
