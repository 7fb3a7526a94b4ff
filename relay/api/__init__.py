"""The HTTP API for retailers and operators."""

from relay.api.app import create_app
from relay.api.deps import Deps

__all__ = ["Deps", "create_app"]
