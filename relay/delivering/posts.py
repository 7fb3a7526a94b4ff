"""One runner's posts to its endpoint: what is sent for a job, and how many are in flight."""

from typing import ClassVar

from relay import metrics
from relay.delivering.jobs import Job
from relay.model.events import thin
from relay.model.retries import Outcome
from relay.sender import Message, Sender
from relay.store.deliveries import Owned, Target
from relay.tracing import Tracing


class Posts:
    """`flying` are in flight: their receivers may have them, and nothing is known of it yet. `everywhere` are those of
    all runners of this process; a gauge reads it when it is asked, as moving one costs more."""

    everywhere: ClassVar[int] = 0

    def __init__(self, owned: Owned, sender: Sender, tracing: Tracing) -> None:
        self.flying = 0
        self._owned = owned
        self._sender = sender
        self._tracing = tracing

    async def send(self, target: Target, job: Job, now_ms: int) -> Outcome:
        """Send a job's event as of now (ms); where there is tracing, that is told of in the event's trace."""
        if not self._tracing.on:
            return await self._send(target, job, now_ms, "")
        with self._tracing.attempt(
            job.entry.trace,
            retailer_id=self._owned.retailer_id,
            subscription_id=self._owned.subscription_id,
            event_id=job.entry.event_id,
            event_type=job.entry.type,
            attempt=job.attempts + 1,
        ) as span:
            outcome = await self._send(target, job, now_ms, span.traceparent)
            well = outcome.status is not None and 200 <= outcome.status < 300
            span.tell(outcome=outcome.kind, status=outcome.status, well=well)
        return outcome

    async def _send(self, target: Target, job: Job, now_ms: int, traceparent: str) -> Outcome:
        message = Message(
            job.entry.event_id,
            job.entry.body if target.payload == "full" else thin(job.entry.body),
            job.sequence,
            job.attempts + 1,
            replay=job.kind == "r",
            stands_for=job.stands_for,
            traceparent=traceparent,
        )
        self.flying += 1
        Posts.everywhere += 1
        try:
            outcome = await self._sender.post(
                target.url, message, keys=target.keyring.live(now_ms), headers=target.headers, now_s=now_ms // 1000
            )
        finally:
            self.flying -= 1
            Posts.everywhere -= 1
        if outcome.status is not None and outcome.status < 300:
            metrics.body_bytes.observe(len(message.body))
        return outcome
