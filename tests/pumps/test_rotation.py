"""Rotation while events flow: at no moment is there a delivery that the right receiver could not verify."""

import time

from standardwebhooks import Webhook

from relay.model.keyring import Keyring
from relay.model.signing import Secret, SigningKey
from tests.pumps.test_delivering import change, run
from tests.support.rig import Rig, eventually, open_rig


class Verifier:
    """A receiver that verifies with the official library and the one secret it knows."""

    def __init__(self, secret: Secret) -> None:
        self.secret = secret
        self.signatures: list[str] = []
        self.refused = 0

    def take(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        try:
            Webhook(self.secret.text).verify(body, headers)
        except Exception:
            self.refused += 1
            return 401, b""
        self.signatures.append(headers["webhook-signature"])
        return 200, b""


async def _rotate(rig: Rig, subscription_id: str, secret: Secret, *, overlap_ms: int) -> None:
    known = await rig.subscriptions.get(rig.retailer_id, subscription_id)
    signing = SigningKey.new() if known.keyring.signing is not None else None
    ring = known.keyring.rotated(secret, signing, now_ms=await rig.db.now_ms(), overlap_ms=overlap_ms)
    await rig.subscriptions.amend(rig.retailer_id, known, known.configuration, keyring=ring)


def test_the_receiver_may_change_its_secret_at_any_moment_of_the_overlap(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe()
            verifier = Verifier(rig.receiver.secrets[0])
            rig.receiver.take = verifier.take  # type: ignore[method-assign]
            rig.deliver()
            await change(rig, "o-1", "before")
            await eventually(lambda: len(verifier.signatures) == 1)

            new = Secret.new()
            await _rotate(rig, subscription.id, new, overlap_ms=60_000)
            await change(rig, "o-1", "during, old secret")
            await eventually(lambda: len(verifier.signatures) == 2)
            verifier.secret = new
            await change(rig, "o-1", "during, new secret")
            await eventually(lambda: len(verifier.signatures) == 3)
            newest = Secret.new()
            await _rotate(rig, subscription.id, newest, overlap_ms=0)
            verifier.secret = newest
            await change(rig, "o-1", "after")
            await eventually(lambda: len(verifier.signatures) == 4)

            assert verifier.refused == 0
            assert [len(entry.split(" ")) for entry in verifier.signatures] == [1, 2, 2, 1]
            assert await eventually(rig.balanced)

    run(main())


def test_the_overlap_ends_by_itself_under_a_pump_that_reads_nothing_anew(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe(heartbeat_seconds=10)
            verifier = Verifier(Secret.new())
            rig.receiver.take = verifier.take  # type: ignore[method-assign]
            known = await rig.subscriptions.get(rig.retailer_id, subscription.id)
            now_ms = await rig.db.now_ms()
            ring = Keyring.new(rig.receiver.secrets[0], SigningKey.new()).rotated(
                verifier.secret, SigningKey.new(), now_ms=now_ms, overlap_ms=1_500
            )
            await rig.subscriptions.amend(rig.retailer_id, known, known.configuration, keyring=ring)
            rig.deliver()

            number = 0
            while time.time() * 1000 < now_ms + 3_000:
                number += 1
                await change(rig, "o-1", f"status-{number}")
                await eventually(lambda: len(verifier.signatures) >= number)  # noqa: B023
            counts = [len(entry.split(" ")) for entry in verifier.signatures]

            assert counts == sorted(counts, reverse=True)
            assert (counts[0], counts[-1]) == (4, 2)
            assert {entry.partition(",")[0] for entry in verifier.signatures[-1].split(" ")} == {"v1", "v1a"}
            assert verifier.refused == 0

    run(main())
