"""Timing, and what it is done on."""
