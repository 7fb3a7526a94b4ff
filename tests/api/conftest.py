"""One private Valkey for the module's tests."""

from collections.abc import Iterator

import pytest

from relay.embedded import EmbeddedStore


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    with EmbeddedStore() as store:
        yield store.url
