"""An event owed becomes a message and is sent; where there is tracing, each attempt is told of in the event's trace."""

from relay.delivering.jobs import Job
from relay.model.events import thin
from relay.model.retries import Outcome
from relay.sender import Message, Sender
from relay.store.deliveries import Owned, Target
from relay.tracing import Tracing


class Posting:
    """One for a subscription under lease."""

    def __init__(self, owned: Owned, sender: Sender, tracing: Tracing) -> None:
        self._owned = owned
        self._sender = sender
        self._tracing = tracing

    async def post(self, job: Job, target: Target, now_ms: int) -> Outcome:
        """Send a job's event as of now (ms)."""
        if not self._tracing.on:
            return await self._send(job, target, now_ms, "")
        with self._tracing.attempt(
            job.entry.trace,
            retailer_id=self._owned.retailer_id,
            subscription_id=self._owned.subscription_id,
            event_id=job.entry.event_id,
            event_type=job.entry.type,
            attempt=job.attempts + 1,
        ) as span:
            outcome = await self._send(job, target, now_ms, span.traceparent)
            well = outcome.status is not None and 200 <= outcome.status < 300
            span.tell(outcome=outcome.kind, status=outcome.status, well=well)
        return outcome

    async def _send(self, job: Job, target: Target, now_ms: int, traceparent: str) -> Outcome:
        message = Message(
            job.entry.event_id,
            job.entry.body if target.payload == "full" else thin(job.entry.body),
            job.sequence,
            job.attempts + 1,
            replay=job.kind == "r",
            stands_for=job.stands_for,
            traceparent=traceparent,
        )
        return await self._sender.post(
            target.url, message, keys=target.keyring.live(now_ms), headers=target.headers, now_s=now_ms // 1000
        )
