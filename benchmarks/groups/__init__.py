"""The groups of benchmarks, each of which can be run by itself."""
