"""Delivering: own subscriptions, read the log from their positions, post in order per order, record."""

from relay.delivering.pump import DeliverPump

__all__ = ["DeliverPump"]
