"""The config file: its lines, what is right and wrong in it, what comes of it, and how children get it."""
