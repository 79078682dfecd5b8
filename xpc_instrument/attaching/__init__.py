"""Getting the agent into a process that was started without it."""
