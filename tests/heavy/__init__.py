"""What takes long by its nature, and the tests of the project's own tools."""
