"""Commands of the operator, straight on the store: retailers, keys, audit, check."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.cli.checking import REDIS_WITHIN, check
from relay.cli.options import add_settings, command, read_settings
from relay.errors import InvalidInput, InvalidSettings
from relay.model.orders import RetailerId
from relay.settings import Settings, duration
from relay.store import sealed
from relay.store.audit import Action, AuditLog
from relay.store.connecting import security_of
from relay.store.ledger import Ledger
from relay.store.log import Log
from relay.store.redis import Db, open_client, wait_until_up
from relay.store.retailers import OPERATOR, SCOPES, Retailers
from relay.vault import Vault, generate_master_key, parse_master_keys

#: Who the audit log says it was: somebody with access to the store itself.
_ACTOR = "command-line"


@dataclass(frozen=True, slots=True)
class Store:
    settings: Settings
    db: Db
    retailers: Retailers
    vault: Vault
    audit: AuditLog


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[Store]:
    if settings.redis_url is None:
        raise InvalidSettings("this command needs RELAY_REDIS_URL")
    security = security_of(settings)
    await wait_until_up(settings.redis_url, REDIS_WITHIN, security)
    db = Db(open_client(settings.redis_url, security=security))
    try:
        vault = Vault(parse_master_keys(settings.master_keys or generate_master_key("none")))
        if settings.master_keys is not None:
            await sealed.check_master_keys(db, vault)
        yield Store(settings, db, Retailers(db, vault), vault, AuditLog(db))
    finally:
        await db.aclose()


def _on_store(
    work: Callable[[argparse.Namespace, Store], Awaitable[int]],
) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        async def main() -> int:
            async with _open(read_settings(options)) as store:
                return await work(options, store)

        return asyncio.run(main())

    return run


def add_commands(commands: Any) -> None:
    parser = command(
        commands,
        "retailers",
        "list and create retailers",
        "relay retailers create 'Corner Shop'",
        _on_store(_retailers),
    )
    parser.add_argument("action", choices=["list", "create", "delete"])
    parser.add_argument("value", nargs="?", help="name (create) or id (delete)")
    parser.add_argument("--client-id", help="the retailer's own upstream application")
    parser.add_argument("--client-secret", help="its secret")
    parser.add_argument("--budget", type=float, help="requests per second that it may spend upstream")
    parser.add_argument("--json", action="store_true")
    add_settings(parser)

    parser = command(commands, "keys", "API keys, and master keys", "relay keys create ret_... --name laptop", _keys)
    parser.add_argument(
        "action",
        choices=["list", "create", "revoke", "master", "reencrypt"],
        help="master makes a master key; reencrypt seals everything with the first of RELAY_MASTER_KEYS",
    )
    parser.add_argument("retailer", nargs="?", help="a retailer's id, or `operator`; for master: the new key's id")
    parser.add_argument("key", nargs="?", help="key id (revoke)")
    parser.add_argument("--name", default="")
    parser.add_argument("--scopes", help="comma-separated; default: all")
    parser.add_argument("--expires-in", help="such as 720h")
    parser.add_argument("--json", action="store_true")
    add_settings(parser)

    parser = command(commands, "audit", "balance the ledger of every subscription", "relay audit", _on_store(_audit))
    parser.add_argument("--json", action="store_true")
    add_settings(parser)

    parser = command(commands, "check", "validate settings, Redis and upstream", "relay check", check)
    parser.add_argument("--json", action="store_true")
    add_settings(parser)


async def _retailers(options: argparse.Namespace, store: Store) -> int:
    if options.action == "create":
        if not options.value:
            raise InvalidInput("give the retailer a name")
        if (options.client_id is None) != (options.client_secret is None):
            raise InvalidInput("give --client-id and --client-secret together")
        if options.client_id is not None and store.settings.master_keys is None:
            raise InvalidSettings("RELAY_MASTER_KEYS is needed to keep an upstream secret")
        upstream = None if options.client_id is None else (options.client_id, options.client_secret)
        made = await store.retailers.create(options.value, upstream=upstream, budget=options.budget, limits={})
        await store.audit.write(made.id, Action("retailer.created", _ACTOR, made.id))
        _print(options, [made], lambda one: one.id)
        return 0
    if options.action == "delete":
        await store.retailers.delete(RetailerId(options.value or ""))
        await store.audit.write(OPERATOR, Action("retailer.deleted", _ACTOR, options.value or ""))
        return 0
    after, found = None, []
    while True:
        page, after = await store.retailers.page(after=after, limit=100)
        found += page
        if after is None:
            break
    _print(options, found, lambda one: f"{one.id}  {one.name}")
    return 0


def _keys(options: argparse.Namespace) -> int:
    if options.action == "master":
        print(generate_master_key(options.retailer or "k1"))
        return 0
    return _on_store(_reencrypt if options.action == "reencrypt" else _api_keys)(options)


async def _reencrypt(options: argparse.Namespace, store: Store) -> int:
    """Exit status 1 when records are left that do not open: the keys they name are still needed."""
    if store.settings.master_keys is None:
        raise InvalidSettings("RELAY_MASTER_KEYS is needed: the new key first, the old ones behind it")
    done = sealed.Resealed({}, 0, 0)
    async for done in sealed.reseal(store.db, store.vault):
        if sys.stderr.isatty():
            print(f"\r{sum(done.records.values())} records, {done.resealed} sealed anew", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if options.json:
        print(json.dumps(msgspec.to_builtins(done)))
        return 1 if done.unreadable else 0
    for key_id, count in sorted(done.records.items()):
        print(f"{key_id}  {count} records")
    print(f"{done.resealed} sealed anew with {store.vault.first}")
    if done.unreadable:
        print(f"{done.unreadable} do not open with RELAY_MASTER_KEYS: put the keys named above back and run this again")
    return 1 if done.unreadable else 0


async def _api_keys(options: argparse.Namespace, store: Store) -> int:
    retailer_id = options.retailer or ""
    if retailer_id != OPERATOR:
        await store.retailers.get(retailer_id)
    if options.action == "create":
        scopes = list(SCOPES) if options.scopes is None else options.scopes.split(",")
        if unknown := [scope for scope in scopes if scope not in SCOPES]:
            raise InvalidInput(f"no such scope: {', '.join(unknown)}; there are {', '.join(SCOPES)}")
        expires_ms = None
        if options.expires_in:
            try:
                expires_ms = await store.db.now_ms() + round(duration(options.expires_in) * 1000)
            except ValueError as error:
                raise InvalidInput(f"--expires-in: {error}") from None
        key, presented = await store.retailers.issue(
            retailer_id, name=options.name, scopes=[] if retailer_id == OPERATOR else scopes, expires_ms=expires_ms
        )
        await store.audit.write(retailer_id, Action("key.created", _ACTOR, key.id))
        if options.json:
            print(json.dumps(msgspec.to_builtins(key) | {"key": presented}))
        else:
            print(presented)
        return 0
    if options.action == "revoke":
        await store.retailers.revoke(retailer_id, options.key or "")
        await store.audit.write(retailer_id, Action("key.revoked", _ACTOR, options.key or ""))
        return 0
    found = await store.retailers.keys(retailer_id)
    _print(options, found, lambda one: f"{one.id}  ...{one.last4}  {one.name}  {' '.join(one.scopes)}")
    return 0


async def _audit(options: argparse.Namespace, store: Store) -> int:
    ledger = Ledger(store.db, Log(store.db))
    accounts, problems, after = [], [], None
    while True:
        page, after = await store.retailers.page(after=after, limit=100)
        for retailer in page:
            accounts += await ledger.audit(retailer.id)
            problems += await ledger.sequences(retailer.id)
        if after is None:
            break
    balanced = all(account.balanced for account in accounts) and not problems
    if options.json:
        rows = [msgspec.to_builtins(a) | {"waiting": a.waiting, "balanced": a.balanced} for a in accounts]
        print(json.dumps({"balanced": balanced, "subscriptions": rows, "problems": problems}))
    else:
        for one in accounts:
            verdict = "balanced" if one.balanced else "OFF: " + "; ".join(one.problems)
            print(
                f"{one.subscription_id}  matched {one.matched + one.unread}  delivered {one.delivered}"
                f"  waiting {one.waiting}  dead {one.dead}  {verdict}"
            )
        for problem in problems:
            print(f"OFF: {problem}")
        print("the ledger balances" if balanced else "the ledger does NOT balance")
    return 0 if balanced else 1


def _print(options: argparse.Namespace, rows: list[Any], line: Callable[[Any], str]) -> None:
    if options.json:
        print(json.dumps([msgspec.to_builtins(row) for row in rows]))
    else:
        for row in rows:
            print(line(row))
