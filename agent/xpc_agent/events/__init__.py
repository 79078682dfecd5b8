"""Invocations that nobody waits for: their queue, and the thread that empties it."""
