"""Master keys: the right ones are asked for at start, changed without a pause, and retired."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from relay import cli
from relay.errors import InvalidSettings, SecretUnreadable
from relay.model.keyring import Keyring
from relay.model.orders import OrderId
from relay.model.signing import Secret
from relay.store import keys, sealed
from relay.store.deliveries import Deliveries
from relay.store.idempotency import Idempotency, Remembered
from relay.store.order_records import Registration, UserToken
from relay.store.orders import Orders
from relay.store.redis import Db, open_client
from relay.store.retailers import Retailers
from relay.store.subscriptions import Configuration, Subscription, Subscriptions
from relay.store.tokens import StoredTokens
from relay.vault import Vault, generate_master_key, parse_master_keys
from tests.support import acl

OLD, NEW = generate_master_key("2025"), generate_master_key("2026")


def _vault(text: str) -> Vault:
    return Vault(parse_master_keys(text))


def _run(redis_url: str, test: Callable[[Db], Awaitable[None]]) -> None:
    async def main() -> None:
        db = Db(open_client(redis_url))
        try:
            await test(db)
        finally:
            await db.aclose()

    asyncio.run(main())


class Everything:
    """One of each thing that is sealed, made with one vault and opened with another."""

    subscription: Subscription

    async def make(self, db: Db, vault: Vault) -> "Everything":
        await sealed.check_master_keys(db, vault)
        self.retailer = await Retailers(db, vault).create("S", upstream=("id", "up-secret"), budget=5.0, limits={})
        configuration = Configuration("https://shop.example.com/h", headers={"Authorization": "Bearer hidden"})
        self.secret = Secret.new()
        self.subscription = await Subscriptions(db, vault).create(
            self.retailer.id, configuration, keyring=Keyring.new(self.secret), start=None
        )
        registration = Registration(OrderId("o:1 ä"), "user", UserToken("given-token", None))
        await Orders(db, vault).register(self.retailer.id, [registration], credential=self.retailer.credential)
        await StoredTokens(db, vault).put("shared", "user", b"minted-token", ttl_s=1000)
        answers = Idempotency(db, vault)
        await answers.begin("key", "POST", "/v1/orders", "k-1", b"{}")
        await answers.finish("key", "POST", "/v1/orders", "k-1", b"{}", Remembered(201, b"the answer"))
        await answers.begin("key", "POST", "/v1/orders", "running", b"{}")
        return self

    async def opens(self, db: Db, vault: Vault) -> None:
        await sealed.check_master_keys(db, vault)
        assert await Retailers(db, vault).upstream_secret(self.retailer.id) == ("id", "up-secret")
        got = await Subscriptions(db, vault).get(self.retailer.id, self.subscription.id)
        assert got.keyring == Keyring.new(self.secret)
        assert got.configuration.headers == {"Authorization": "Bearer hidden"}
        assert await Orders(db, vault).token(self.retailer.id, OrderId("o:1 ä")) == UserToken("given-token", None)
        assert await StoredTokens(db, vault).get("shared", "user") == b"minted-token"
        known = await Idempotency(db, vault).begin("key", "POST", "/v1/orders", "k-1", b"{}")
        assert known == Remembered(201, b"the answer")


async def _reencrypt(db: Db, vault: Vault) -> sealed.Resealed:
    done = None
    async for done in sealed.reseal(db, vault):  # noqa: B007
        pass
    assert done is not None
    return done


def test_a_key_is_retired_without_losing_anything(redis_url: str) -> None:
    async def test(db: Db) -> None:
        everything = await Everything().make(db, _vault(OLD))
        await everything.opens(db, _vault(f"{NEW},{OLD}"))

        done = await _reencrypt(db, _vault(f"{NEW},{OLD}"))

        assert (done.records, done.resealed, done.unreadable) == ({"2026": 7}, 7, 0)
        await everything.opens(db, _vault(NEW))
        with acl.admin(redis_url) as admin:
            ttls = [admin.ttl(name) for name in admin.keys(f"{keys.PREFIX}idem:*")]
        assert all(0 < ttl <= 24 * 3600 for ttl in ttls), "an answer outlives its time"
        assert await _reencrypt(db, _vault(NEW)) == sealed.Resealed({"2026": 7}, 0, 0)

    _run(redis_url, test)


def test_what_does_not_open_is_counted_and_left_alone(redis_url: str) -> None:
    async def test(db: Db) -> None:
        everything = await Everything().make(db, _vault(OLD))

        done = await _reencrypt(db, _vault(NEW))

        assert (done.records, done.resealed, done.unreadable) == ({"2025": 7}, 0, 7)
        await everything.opens(db, _vault(OLD))

    _run(redis_url, test)


def test_a_record_written_meanwhile_is_not_overwritten(redis_url: str) -> None:
    async def test(db: Db) -> None:
        everything, both = await Everything().make(db, _vault(OLD)), _vault(f"{NEW},{OLD}")
        subscriptions, name = Subscriptions(db, both), keys.subscription(everything.subscription.id)
        place = sealed.Place(name, "secrets", "sub")
        stale = await db.run("HGET", name, "secrets")
        rotated = Keyring.new(Secret.new())
        known = await subscriptions.get(everything.retailer.id, everything.subscription.id)
        await subscriptions.amend(everything.retailer.id, known, known.configuration, keyring=rotated)

        assert await sealed._again(db, both, place, stale)

        assert (await subscriptions.get(everything.retailer.id, known.id)).keyring == rotated

    _run(redis_url, test)


def test_other_keys_are_refused_at_start(redis_url: str) -> None:
    async def test(db: Db) -> None:
        await sealed.check_master_keys(db, _vault(OLD))
        same_id = generate_master_key("2025")

        for wrong in (NEW, same_id):
            with pytest.raises(InvalidSettings, match="does not fit this store"):
                await sealed.check_master_keys(db, _vault(wrong))
        await sealed.check_master_keys(db, _vault(f"{NEW},{OLD}"))

    _run(redis_url, test)


@pytest.mark.parametrize("command", ["workers", "relay"])
def test_no_process_starts_with_the_wrong_keys(redis_url: str, command: str) -> None:
    async def make(db: Db) -> None:
        await sealed.check_master_keys(db, _vault(OLD))

    _run(redis_url, make)
    settings = {"RELAY_REDIS_URL": redis_url, "RELAY_MASTER_KEYS": NEW, "RELAY_PORT": "0", "RELAY_METRICS_PORT": "0"}
    arguments = [sys.executable, "-m", command, *(["api"] if command == "relay" else [])]

    ended = subprocess.run(
        arguments, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 2
    assert "does not fit this store" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_one_unreadable_subscription_does_not_hold_up_the_others(redis_url: str) -> None:
    async def test(db: Db) -> None:
        everything = await Everything().make(db, _vault(OLD))
        second = await Subscriptions(db, _vault(OLD)).create(
            everything.retailer.id,
            Configuration("https://shop.example.com/2"),
            keyring=Keyring.new(Secret.new()),
            start=None,
        )
        await db.run("HSET", keys.subscription(everything.subscription.id), "secrets", b"\x01\x01xgarbage-garbage")

        _, _, owned = await Deliveries(db, _vault(OLD)).own(10, owner="p", lease_ms=1000)

        assert [one.subscription_id for one in owned] == [second.id]
        with pytest.raises(SecretUnreadable):
            await Subscriptions(db, _vault(OLD)).get(everything.retailer.id, everything.subscription.id)

    _run(redis_url, test)


def test_the_census_counts_by_key_a_step_at_a_time(redis_url: str) -> None:
    async def test(db: Db) -> None:
        told: list[dict[str, int]] = []
        await Everything().make(db, _vault(OLD))
        await StoredTokens(db, _vault(NEW)).put("shared", "another", b"x", ttl_s=100)
        census = sealed.Census(db, told.append)

        while not told:
            await census.step()

        assert told == [{"2025": 7, "2026": 1}]

    _run(redis_url, test)


def test_the_command(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RELAY_REDIS_URL", redis_url)
    everything = Everything()

    async def make(db: Db) -> None:
        await everything.make(db, _vault(OLD))

    _run(redis_url, make)

    monkeypatch.setenv("RELAY_MASTER_KEYS", NEW)
    assert cli.main(["keys", "reencrypt"]) == 2
    assert "does not fit this store" in capsys.readouterr().err
    monkeypatch.setenv("RELAY_MASTER_KEYS", f"{NEW},{OLD}")
    assert cli.main(["keys", "reencrypt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"records": {"2026": 7}, "resealed": 7, "unreadable": 0}
    monkeypatch.setenv("RELAY_MASTER_KEYS", NEW)
    assert cli.main(["keys", "reencrypt"]) == 0
    assert "2026  7 records" in capsys.readouterr().out

    async def opens(db: Db) -> None:
        await everything.opens(db, _vault(NEW))

    _run(redis_url, opens)
