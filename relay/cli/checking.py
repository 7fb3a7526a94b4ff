"""`relay check`: what a deployment of these settings would meet, tried out and said in words. All it writes is
the scratch key of /readyz."""

import argparse
import asyncio
import json

import httpx
from redis.exceptions import RedisError

from relay import tracing
from relay.cli.options import read_settings
from relay.errors import RelayError
from relay.settings import Settings
from relay.store import keys, layout, sealed
from relay.store.connecting import security_of
from relay.store.redis import Db, open_client, wait_until_up
from relay.store.server import findings, read
from relay.vault import Vault, parse_master_keys

#: Seconds a command waits for Redis before it gives up with exit status 2.
REDIS_WITHIN = 3.0

#: Whether it is well, and in words.
Finding = tuple[bool, str]


def check(options: argparse.Namespace) -> int:
    """What is wrong, and what to change; 1 when a deployment would not work well, 2 when settings cannot be read."""
    settings = read_settings(options)
    found = asyncio.run(_findings(settings))
    if options.json:
        print(json.dumps({"ok": not any(not ok for ok, _ in found), "findings": found}))
    else:
        for ok, text in found:
            print(f"{'ok ' if ok else 'BAD'} {text}")
    return 0 if all(ok for ok, _ in found) else 1


async def _findings(settings: Settings) -> list[Finding]:
    found: list[Finding] = [(True, "settings are valid")]
    if settings.master_keys is None:
        found.append((False, "RELAY_MASTER_KEYS is not set: `relay keys master` makes one"))
    if settings.admin_key is None:
        found.append((False, "RELAY_ADMIN_KEY is not set: only `relay retailers` and `relay keys` can provision"))
    if settings.tracing:
        found.append(_of_tracing())
    if settings.redis_url is None:
        found.append((True, "RELAY_REDIS_URL is not set: `relay up` uses the embedded store"))
    else:
        found += await _of_redis(settings, settings.redis_url)
    return [*found, await of_upstream(settings)]


def _of_tracing() -> Finding:
    try:
        tracing.require()
    except RelayError as error:
        return False, error.detail
    return True, "RELAY_TRACING=1: OpenTelemetry is installed"


async def _of_redis(settings: Settings, url: str) -> list[Finding]:
    security = security_of(settings)
    try:
        await wait_until_up(url, REDIS_WITHIN, security)
    except RelayError as error:
        return [(False, error.detail)]
    db = Db(open_client(url, security=security))
    try:
        server = await read(db)
        found = [(ok, text if ok else f"{code}: not so: {text}") for code, ok, text in findings(server)]
        limit = "maxmemory is set" if server.memory_limit else "maxmemory is not set: the relay cannot shed in time"
        found.append((server.memory_limit > 0, f"{limit} (docs/operations.md, Memory)"))
        return [(True, f"Redis {server.version} answers"), *found, *await _of_store(db, settings)]
    except RelayError as error:
        return [(False, error.detail)]
    finally:
        await db.aclose()


async def _of_store(db: Db, settings: Settings) -> list[Finding]:
    """What a process asks of what is stored before it works, and what /readyz asks of Redis."""
    found: list[Finding] = []
    try:
        await db.run("SET", keys.SCRATCH, 1, "EX", 60)
        found.append((True, "Redis takes a write"))
    except (RelayError, RedisError) as error:
        found.append((False, f"Redis takes no write, so that no process becomes ready: {error}"))
    try:
        await layout.look(db)
        found.append((True, "the store's format is one that this release reads"))
        if settings.master_keys is not None:
            known = await sealed.fits(db, Vault(parse_master_keys(settings.master_keys)))
            found.append((True, f"RELAY_MASTER_KEYS {'opens' if known else 'is the first for'} what is stored"))
    except RelayError as error:
        found.append((False, error.detail))
    return found


async def of_upstream(settings: Settings) -> Finding:
    """Asked without a token, which the API refuses: another answer is another service's, or a fault's."""
    url = settings.upstream_url.rstrip("/")
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            answer = await client.get(f"{url}/v2/post_checkout/orders/relay-check/handling")
    except httpx.HTTPError as error:
        return False, f"upstream {url} does not answer: {type(error).__name__}"
    if answer.status_code in (401, 403, 429):
        return True, f"upstream {url} answers ({answer.status_code})"
    return False, f"upstream {url} answers {answer.status_code} where 401 is due: is RELAY_UPSTREAM_URL the API's?"
