"""A real Valkey for every test process, empty for every test."""

from collections.abc import Iterator

import hypothesis
import pytest
import structlog

from relay.embedded import EmbeddedStore
from relay.vault import Vault, generate_master_key, parse_master_keys
from tests.support import acl
from tests.support.workers import unused_ports

# The machine is small and noisy: no test fails for being slow, and failures are the same on every machine.
hypothesis.settings.register_profile(
    "relay",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("relay")

# Log lines are not the tests' output; those that look at them capture them.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The test process's own server, by the relay's account; tests that stop or restart one start their own."""
    with EmbeddedStore() as store:
        url = acl.restricted(store.url)
        yield url
        assert acl.refused(url) == [], "deploy/redis/acl.conf does not allow what was asked"


@pytest.fixture
def redis_url(valkey: str) -> str:
    """The URL of an empty store, for the relay. What a test wants besides, it asks by `acl.admin`."""
    with acl.admin(valkey) as client:
        client.flushall()
    return valkey


@pytest.fixture(scope="session")
def master_keys() -> str:
    return generate_master_key("test")


@pytest.fixture
def vault(master_keys: str) -> Vault:
    return Vault(parse_master_keys(master_keys))


@pytest.fixture
def unused_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    return unused_ports(1)[0]
