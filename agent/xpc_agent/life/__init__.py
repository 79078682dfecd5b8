"""Start, stop, forks and exit of the agent."""
