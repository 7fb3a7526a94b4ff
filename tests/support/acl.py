"""The relay's account of deploy/redis/acl.conf in the servers that the tests share: what the relay asks Redis for in
any test, it may ask of an operator's Redis. A test's own questions go to the same server by `admin`."""

import hashlib
import re
from pathlib import Path
from typing import Any

import redis

_FILE = Path(__file__).parents[2] / "deploy" / "redis" / "acl.conf"
_PASSWORD = "of-the-tests"


def rules() -> list[str]:
    """The account's line, in words, with the password of the tests."""
    line = next(one for one in _FILE.read_text().splitlines() if one.startswith("user "))
    digest = hashlib.sha256(_PASSWORD.encode()).hexdigest()
    return re.sub("#0{64}", f"#{digest}", line).split()


def restricted(url: str) -> str:
    """Make the account on a server on a socket; returns the URL by which the relay is to use it."""
    _, name, *rest = rules()
    with redis.Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", name, "reset", *rest)
    return url.replace("unix://", f"unix://{name}:{_PASSWORD}@")


def admin_url(url: str) -> str:
    """The same server for the test itself, which may do everything."""
    return re.sub(r"//[^/@]*@", "//", url)


def admin(url: str) -> redis.Redis:
    return redis.Redis.from_url(admin_url(url))


def refused(url: str) -> list[str]:
    """What the account was refused: it has to be in the file, or not in the code."""
    with admin(url) as client:
        log: Any = client.execute_command("ACL", "LOG", 128)
    return sorted({f"{one['reason']} {one['object']}" for one in (_named(row) for row in log) if one["username"]})


def _named(row: Any) -> dict[str, str]:
    pairs = row.items() if isinstance(row, dict) else zip(row[::2], row[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
