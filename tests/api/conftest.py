"""One private Valkey for the module's tests."""

from collections.abc import Iterator

import pytest

from relay.embedded import EmbeddedStore
from tests.support import acl


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    with EmbeddedStore() as store:
        url = acl.restricted(store.url)
        yield url
        assert acl.refused(url) == [], "deploy/redis/acl.conf does not allow what was asked"
