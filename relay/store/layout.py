"""Which layout of stored data a store may hold, so that two releases can work on it side by side.

A release writes one format and reads a range. What the newest writer so far wrote is kept in the store; a process that
does not know that format refuses to start, and one that finds a format older than it reads says through which release
to go. A new format is therefore introduced in two releases: the first reads it, the next one writes it, and a rolling
upgrade or a step back between neighbours never meets data that somebody running cannot read.

Smaller than that, and without a new format: a field may be added to a hash, a stream entry or a JSON document if those
who do not know it pass it over. Prefix and hash tag of the keys (`relay.store.keys`) change with a format only.
"""

from relay import __version__
from relay.errors import InvalidSettings
from relay.store import keys
from relay.store.redis import Db

#: What this release writes, and the formats that it reads.
WRITES = 1
OLDEST_READ, NEWEST_READ = 1, 1


async def look(db: Db) -> int | None:
    """The store's format as it is written there, None where it is not yet.

    Raises InvalidSettings (`store_newer`, `store_older`), StoreUnavailable.
    """
    found, by = await db.run("HMGET", keys.LAYOUT, "format", "by")
    # Stores of releases before this record have format 1, whose keys begin as they do now.
    stored = 1 if found is None else int(found)
    if stored > NEWEST_READ:
        raise InvalidSettings(
            f"the store was written by relay {(by or b'?').decode()} in format {stored}; this is relay {__version__},"
            f" which reads up to {NEWEST_READ}. Run a newer relay; docs/operations.md says how releases follow.",
            code="store_newer",
        )
    if stored < OLDEST_READ:
        raise InvalidSettings(
            f"the store has format {stored}; relay {__version__} reads {OLDEST_READ} and newer. Upgrade through the"
            " release before first; docs/operations.md says how releases follow.",
            code="store_older",
        )
    return None if found is None else stored


async def agree(db: Db) -> int:
    """The store's format, raised to what this release writes. Safe to run twice and by many at once. Raises as `look`
    does."""
    found = await look(db)
    stored = max(1 if found is None else found, WRITES)
    if found is None or found < WRITES:
        await db.run("HSET", keys.LAYOUT, "format", stored, "by", __version__)
    return stored
