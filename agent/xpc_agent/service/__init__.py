"""What the agent answers: registrations, members of a fixed address, reports."""
