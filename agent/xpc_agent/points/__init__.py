"""Probe points: what the config makes hookable, and what became of it."""
