"""Trees: what one invocation calls, to any depth, and how long each part takes."""
