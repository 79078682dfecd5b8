"""What the verbs show, as text and as JSON, without printing it."""
