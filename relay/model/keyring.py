"""The keys a subscription signs with: several during a rotation, newest first. Pure; time is an argument.

Standard Webhooks 1.0.0 signs with each live key, so that a receiver may change its own at any moment of the overlap.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from relay.errors import Conflict
from relay.model.signing import Secret, SigningKey, parse_key

#: Symmetric keys that are live at a time, old ones included.
MOST = 10


@dataclass(frozen=True, slots=True)
class Held:
    """A key and until when it signs (ms; None: until it is replaced)."""

    key: Secret | SigningKey = field(repr=False)
    until_ms: int | None = None

    def lives(self, now_ms: int) -> bool:
        return self.until_ms is None or self.until_ms > now_ms


@dataclass(frozen=True, slots=True)
class Keyring:
    """Newest first; the first symmetric key is the current one and never ends."""

    held: tuple[Held, ...]

    @classmethod
    def new(cls, secret: Secret, signing: SigningKey | None = None) -> "Keyring":
        return cls((Held(secret),) if signing is None else (Held(secret), Held(signing)))

    @classmethod
    def parse(cls, rows: Iterable[dict[str, object]]) -> "Keyring":
        """From what `rows` gave."""
        held = []
        for row in rows:
            until = row["until_ms"]
            held.append(Held(parse_key(str(row["secret"])), None if until is None else int(str(until))))
        return cls(tuple(held))

    def rows(self) -> list[dict[str, object]]:
        """As it is stored, to be sealed."""
        return [{"secret": one.key.text, "until_ms": one.until_ms} for one in self.held]

    def live(self, now_ms: int) -> tuple[Secret | SigningKey, ...]:
        """The keys that sign now."""
        return tuple(one.key for one in self.held if one.lives(now_ms))

    def secrets(self, now_ms: int) -> list[tuple[Secret, int | None]]:
        """The symmetric keys that sign now, newest first, with their ends."""
        return [(h.key, h.until_ms) for h in self.held if isinstance(h.key, Secret) and h.lives(now_ms)]

    def signing_keys(self, now_ms: int) -> list[tuple[SigningKey, int | None]]:
        """The Ed25519 keys that sign now, newest first, with their ends."""
        return [(h.key, h.until_ms) for h in self.held if isinstance(h.key, SigningKey) and h.lives(now_ms)]

    @property
    def signing(self) -> SigningKey | None:
        """The current Ed25519 key, where there is one."""
        return next((h.key for h in self.held if isinstance(h.key, SigningKey) and h.until_ms is None), None)

    def holds(self, secret: Secret) -> bool:
        """Whether this key is among them, live or not."""
        return any(isinstance(h.key, Secret) and h.key.same(secret) for h in self.held)

    def rotated(self, secret: Secret, signing: SigningKey | None, *, now_ms: int, overlap_ms: int) -> "Keyring":
        """With new keys in front; all others end after the overlap at the latest, at once if it is 0.

        Raises Conflict (`too_many_secrets`) when ten would be live."""
        end_ms = now_ms + overlap_ms
        old = [Held(h.key, end_ms if h.until_ms is None else min(end_ms, h.until_ms)) for h in self.held]
        old = [one for one in old if one.lives(now_ms)]
        if sum(isinstance(one.key, Secret) for one in old) >= MOST:
            detail = f"{MOST} secrets are live: wait for the end of an overlap, or rotate with overlap_seconds 0"
            raise Conflict(detail, code="too_many_secrets")
        return Keyring((*Keyring.new(secret, signing).held, *old))

    def with_signing(self, signing: SigningKey | None) -> "Keyring":
        """With this Ed25519 key and no other, or with none."""
        kept = tuple(one for one in self.held if isinstance(one.key, Secret))
        return Keyring(kept if signing is None else (*kept[:1], Held(signing), *kept[1:]))
