"""Entry points: when, and in which process, the relay works."""
