"""Two processes share the tests: those in the group `busy` never run at the same time, and long ones begin early."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("lasting") is None)
