"""The way of an invocation: dispatch, whether a hook is called, and hooks that cross."""
