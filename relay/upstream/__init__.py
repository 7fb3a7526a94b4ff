"""The upstream Post-Checkout API: one interface, one module per dialect, one client."""
