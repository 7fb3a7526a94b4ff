"""`relay demo`: the main job in one terminal, on simulated orders, proved by an independent count."""

from relay.demo.run import DemoOptions, demo

__all__ = ["DemoOptions", "demo"]
