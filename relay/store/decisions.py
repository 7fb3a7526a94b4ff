"""What a retailer had passed on to upstream, kept until its consequence is seen: so that nothing is sent twice on our
own account, and so that the event that follows says who caused it."""

from dataclasses import dataclass

import msgspec

from relay.model.changes import Cause
from relay.model.orders import JsonObject, OrderId, RetailerId
from relay.store import keys
from relay.store.redis import Arg, Db, as_dict

#: How long a record is kept (seconds): an order lives for hours.
KEEP_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Decision:
    """One write. `answer` is upstream's, None while it is not known whether the write arrived; `told`: an event said
    who caused what came of it."""

    what: str
    content: str
    cause: Cause
    answer: JsonObject | None = None
    told: bool = False

    @property
    def given_id(self) -> str | None:
        """The id that upstream gave to what was written, as text."""
        id_ = (self.answer or {}).get("id")
        return None if id_ is None else str(id_)


class Decisions:
    """Records by what was decided: `replacement/<item>`, `message/<id of ours>`."""

    def __init__(self, db: Db) -> None:
        self._db = db

    async def begin(self, retailer_id: RetailerId, order_id: OrderId, decision: Decision) -> bool:
        """Note that a write is about to be sent; False when it is noted already."""
        key = keys.decisions(retailer_id, order_id)
        new, _ = await self._db.run_many([["HSETNX", key, decision.what, _record(decision)], ["EXPIRE", key, KEEP_S]])
        return bool(new)

    async def write(self, retailer_id: RetailerId, order_id: OrderId, *decisions: Decision) -> None:
        """What came of writes, in the place of what was noted."""
        key = keys.decisions(retailer_id, order_id)
        commands: list[list[Arg]] = [["HSET", key, one.what, _record(one)] for one in decisions]
        await self._db.run_many([*commands, ["EXPIRE", key, KEEP_S]])

    async def drop(self, retailer_id: RetailerId, order_id: OrderId, what: str) -> None:
        """Nothing was done."""
        await self._db.run("HDEL", keys.decisions(retailer_id, order_id), what)

    async def of(self, retailer_id: RetailerId, order_id: OrderId) -> list[Decision]:
        """All that are kept, in no order."""
        found = as_dict(await self._db.run("HGETALL", keys.decisions(retailer_id, order_id)))
        return [_read(what.decode(), raw) for what, raw in found.items()]


def _record(decision: Decision) -> bytes:
    return msgspec.json.encode(
        {"content": decision.content, "cause": decision.cause, "answer": decision.answer, "told": decision.told}
    )


def _read(what: str, raw: bytes) -> Decision:
    record = msgspec.json.decode(raw)
    return Decision(what, record["content"], Cause(**record["cause"]), record["answer"], record["told"])
