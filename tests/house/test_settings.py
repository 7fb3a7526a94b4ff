"""Settings: one error with everything that is wrong; the manual and the table agree."""

import re
from pathlib import Path

import pytest

from relay.errors import InvalidSettings
from relay.model.orders import Resource
from relay.polling.policy import policy_of
from relay.settings import TABLE, Settings, load, variable
from relay.upstream.connect import Connect
from relay.vault import generate_master_key


def test_defaults_are_those_of_the_table() -> None:
    assert load({}) == Settings()


def test_flags_come_before_the_environment_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# a comment\nexport RELAY_PORT='1'\nRELAY_LEASE=2s\nRELAY_SLICE=30s\nOTHER=x\n")

    settings = load({"RELAY_PORT": "2", "RELAY_LEASE": "3s", "PATH": "/bin"}, file, {"port": "3"})

    assert (settings.port, settings.lease, settings.slice) == (3, 3.0, 30.0)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("RELAY_PORT", "70000", "whole number"),
        ("RELAY_PORT", "eighty", "whole number"),
        ("RELAY_DELIVERY_TIMEOUT", "15", "duration"),
        ("RELAY_RETRY_SCHEDULE", "5s,soon", "duration"),
        ("RELAY_RETRY_SCHEDULE", "0s", "longer than nothing"),
        ("RELAY_ALLOW_HTTP_TARGETS", "yes", "1 or 0"),
        ("RELAY_LOG_FORMAT", "xml", "one of"),
        ("RELAY_REDIS_URL", "localhost:6379", "redis://"),
        ("RELAY_ADMIN_KEY", "short", "24 characters"),
        ("RELAY_UPSTREAM_BUDGET", "0", "from 0.1"),
        ("RELAY_UPSTREAM_BUDGET", "many", "convert"),
        ("RELAY_MASTER_KEYS", "k1:AAAA", "32 bytes"),
        ("RELAY_RETENTION_EVENTS", "72h", "at least the retry span"),
        ("RELAY_SLICE", "2m", "60s"),
        ("RELAY_LEASE", "500ms", "1s"),
        ("RELAY_UPSTREAM_CLIENT_ID", "me", "together"),
        ("RELAY_TRACE_RECEIVERS", "1", "RELAY_TRACING=1"),
        ("RELAY_PROT", "1", "RELAY_PORT"),
    ],
)
def test_bad_settings_say_what_to_change(name: str, text: str, words: str) -> None:
    with pytest.raises(InvalidSettings) as error:
        load({name: text})

    assert words in error.value.detail
    assert name.removesuffix("_ID") in error.value.detail


def test_all_problems_come_at_once_and_secrets_are_not_repeated() -> None:
    key = generate_master_key("k")
    with pytest.raises(InvalidSettings) as error:
        load({"RELAY_PORT": "x", "RELAY_LEASE": "y", "RELAY_MASTER_KEYS": f"{key},{key}", "RELAY_ADMIN_KEY": "hunter2"})

    assert len(error.value.problems) == 4
    assert key.partition(":")[2] not in error.value.detail
    assert "hunter2" not in error.value.detail


def test_secrets_hide_in_repr() -> None:
    settings = load(
        {
            "RELAY_ADMIN_KEY": "a" * 30,
            "RELAY_REDIS_URL": "redis://:pw@h/0",
            "RELAY_MASTER_KEYS": generate_master_key("k"),
        }
    )

    assert "a" * 30 not in repr(settings)
    assert "pw" not in repr(settings)


def test_every_setting_has_its_heading_in_the_manual() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()

    missing = [variable(name) for name in TABLE if f"`{variable(name)}`" not in manual]
    assert missing == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("POLL_WEIGHTS", "order.nope=3"),
        ("POLL_WEIGHTS", "order.message_created"),
        ("POLL_WEIGHTS", "order.message_created=0"),
        ("UPSTREAM_RETAILER_ID", "a\r\nx-evil: 1"),
        ("UPSTREAM_DIALECT", "esperanto"),
    ],
)
def test_polling_settings_that_are_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        load({f"RELAY_{name}": text})

    assert [problem.pointer for problem in refused.value.problems] == [f"RELAY_{name}"]


def test_the_live_dialect_is_polled_by_its_own_resources() -> None:
    settings = load({"RELAY_UPSTREAM_DIALECT": "connect", "RELAY_POLL_WEIGHTS": "order.message_created=2"})
    policy = policy_of(settings)

    assert policy.resources == Connect.required
    assert policy.cadence.weight("order.message_created") == 2
    assert policy.cadence.weight("order.replacement_suggested") == 3
    assert (
        policy.cadence.bounds(Resource.HANDLING, "picking")[1] > policy.cadence.bounds(Resource.DETAILS, "picking")[1]
    )


def test_a_digest_tells_settings_apart_and_knows_no_secret() -> None:
    plain = load({})
    assert re.fullmatch(r"[0-9a-f]{12}", plain.digest)
    assert load({"RELAY_LEASE": "20s"}).digest != plain.digest
    assert load({"RELAY_ADMIN_KEY": "a secret that is long enough", "RELAY_METRICS_PORT": "1"}).digest == plain.digest
