"""What xpc-instrument costs, as ratios to a baseline measured in the same run: `python -m benchmarks`. See README.md beside this file."""
