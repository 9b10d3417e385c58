"""What docs/RELIABILITY.md promises, tried: python -m tests.reliability NAME prints each figure of its table."""
