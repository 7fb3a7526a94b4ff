"""Tests of the simulated upstream."""
