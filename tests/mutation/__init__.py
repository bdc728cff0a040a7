"""Mutated network files: every one is refused with a complete message, or accepted and computed right."""
