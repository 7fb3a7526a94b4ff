"""Events leave the log when their time is over, and no subscription is passed over in silence.

A subscription that lags behind what is to go (disabled for long, its endpoint down for longer than events are kept) is
moved over it first, and what it never got is counted as dead. One that a pump owns is left to the pump, and the log
waits for it.
"""

from relay import metrics
from relay.model.orders import RetailerId, SubscriptionId
from relay.store import keys
from relay.store.interest import read_interest
from relay.store.log import Log, ordinal, sortable
from relay.store.redis import Arg, Db, as_dict

#: Events one script drops at most: it stays short while a log of millions is trimmed.
_BATCH = 500


class Retention:
    def __init__(self, db: Db, log: Log) -> None:
        self._db = db
        self._log = log

    async def trim(self, retailer_id: RetailerId, keep_from: str) -> int:
        """Drop what lies before a place in the log; returns how many events went."""
        for raw in await self._db.run("ZRANGE", keys.subscriptions(retailer_id), 0, -1):
            subscription_id = SubscriptionId(raw.decode())
            keep_from = min(keep_from, await self._catch_up(retailer_id, subscription_id, keep_from), key=ordinal)
            # Dead letters whose events are gone cannot be recovered; their count stays in the ledger.
            before_ms = ordinal(keep_from)[0]
            await self._db.run("ZREMRANGEBYSCORE", keys.dead(subscription_id), "-inf", f"({before_ms}")
        key_list = [keys.log(retailer_id), keys.event_ids(retailer_id), keys.gone(retailer_id)]
        dropped = 0
        while count := await self._db.script("trim", key_list, [retailer_id, keep_from, sortable(keep_from), _BATCH]):
            dropped += count
        return dropped

    async def _catch_up(self, retailer_id: RetailerId, subscription_id: SubscriptionId, keep_from: str) -> str:
        """Move a subscription that lags up to `keep_from`; returns what may be dropped as far as it is concerned."""
        while True:
            record = as_dict(await self._db.run("HGETALL", keys.subscription(subscription_id)))
            if b"pos" not in record:
                return keep_from
            position = record[b"pos"].decode()
            entries = await self._log.after(retailer_id, position, _BATCH)
            passed = [entry for entry in entries if ordinal(entry.position) < ordinal(keep_from)]
            if not passed:
                return keep_from
            ahead = {raw.decode() for raw in await self._db.run("SMEMBERS", keys.ahead(subscription_id))}
            interest = read_interest(subscription_id, record)
            matched = [entry for entry in passed if interest.wants(entry)]
            settled = [entry.position for entry in passed if entry.position in ahead]
            skipped = [e for e in matched if e.position not in ahead and (e.gone or interest.skipped(e.position))]
            args: list[Arg] = [record.get(b"fence", b""), position, passed[-1].position]
            args += [len(matched), len(skipped), *settled]
            key_list = [keys.subscription(subscription_id), keys.ahead(subscription_id)]
            if not await self._db.script("pass_over", key_list, args):
                return passed[0].position  # it is being worked on: what it has not read stays until the next look
            if unread := len(matched) - len(skipped) - len(settled):
                metrics.log_trimmed_unread.inc(unread)
