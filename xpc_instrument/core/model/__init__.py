"""Plain data without I/O: targets, terms, limits, errors, and what is counted."""
