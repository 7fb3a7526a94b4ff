"""Polling: claim due arms, fetch them, detect what changed, commit it."""

from relay.polling.pump import PollPump

__all__ = ["PollPump"]
