"""What an invocation of an armed function goes through: dispatch, admission, the call of a hook in another process, and its failures."""
