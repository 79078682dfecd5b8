"""One call from both its ends, and the registry of what can be called."""
