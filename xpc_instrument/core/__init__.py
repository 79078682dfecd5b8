"""What both sides share: all of the library that the agent may import."""
