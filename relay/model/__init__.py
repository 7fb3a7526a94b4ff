"""What the relay knows, as values: orders, changes, events, signatures, schedules. No input or output, no clock."""
