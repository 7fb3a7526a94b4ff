"""The relay: detects what changed on Post-Checkout orders and delivers it as signed, ordered webhooks."""

__version__ = "0.2.0"
