"""Values to bytes and back: by value, by copy, by reference."""
