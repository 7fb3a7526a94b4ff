"""One runner's posts to its endpoint: what is sent for a job, and how many are in flight."""

from relay import metrics
from relay.delivering.jobs import Job
from relay.model.events import thin
from relay.model.retries import Outcome
from relay.sender import Message, Sender
from relay.store.deliveries import Target


class Posts:
    """`flying` are in flight: their receivers may have them, and nothing is known of it yet."""

    def __init__(self, sender: Sender) -> None:
        self.flying = 0
        self._sender = sender

    async def send(self, target: Target, job: Job, now_ms: int) -> Outcome:
        message = Message(
            job.entry.event_id,
            job.entry.body if target.payload == "full" else thin(job.entry.body),
            job.sequence,
            job.attempts + 1,
            replay=job.kind == "r",
            stands_for=job.stands_for,
        )
        self.flying += 1
        metrics.deliveries_in_progress.inc()
        try:
            outcome = await self._sender.post(
                target.url, message, keys=target.keyring.live(now_ms), headers=target.headers, now_s=now_ms // 1000
            )
        finally:
            self.flying -= 1
            metrics.deliveries_in_progress.dec()
        if outcome.status is not None and outcome.status < 300:
            metrics.body_bytes.observe(len(message.body))
        return outcome
