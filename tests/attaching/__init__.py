"""Attaching and detaching, again and again, to programs of all kinds: `python3 dev.py attach`."""
