"""The agent: the part of xpc-instrument that lives inside the application."""
