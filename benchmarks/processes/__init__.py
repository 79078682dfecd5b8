"""The processes that the benchmarks start, and what they are spoken to with."""
