"""Measurements: ratios within one run, beside a naive version and the bare engine, on whatever machine this is."""
