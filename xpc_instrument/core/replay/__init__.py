"""Recorded calls, and what both sides need to run them again: in a process of its own, or in the application."""
