"""Cases of the alerts."""
