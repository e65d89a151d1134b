"""A user's own package, with agents found by dotted path."""
