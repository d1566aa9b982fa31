"""Question sets: reading, checking, tokenising, batching."""
