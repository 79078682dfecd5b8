"""From the name of a target to the thing that it names."""
