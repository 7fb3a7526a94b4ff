"""Receivers' HTTP: one signed POST and what came of it."""

from relay.sender.attempt import Message, Sender

__all__ = ["Message", "Sender"]
