"""Rotation: what signs when. Standard Webhooks 1.0.0, "Signature scheme", on several signatures."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Conflict
from relay.model.keyring import MOST, Keyring
from relay.model.signing import Secret, SigningKey, signed_headers, verify

DAY = 86_400_000


def test_both_sign_during_the_overlap_and_only_the_new_one_after_it() -> None:
    old, new = Secret.new(), Secret.new()
    ring = Keyring.new(old).rotated(new, None, now_ms=1_000, overlap_ms=DAY)

    assert ring.live(1_000) == (new, old)
    assert ring.live(1_000 + DAY - 1) == (new, old)
    assert ring.live(1_000 + DAY) == (new,)


def test_an_overlap_of_zero_ends_every_older_key_at_once() -> None:
    first, second, third = Secret.new(), Secret.new(), Secret.new()
    ring = Keyring.new(first).rotated(second, None, now_ms=0, overlap_ms=7 * DAY)

    leaked = ring.rotated(third, None, now_ms=5, overlap_ms=0)

    assert leaked.live(5) == (third,)
    assert not leaked.holds(first)


def test_a_shorter_overlap_shortens_what_was_promised_before_and_a_longer_one_does_not_stretch_it() -> None:
    first, second, third = Secret.new(), Secret.new(), Secret.new()
    ring = Keyring.new(first).rotated(second, None, now_ms=0, overlap_ms=100)

    assert ring.rotated(third, None, now_ms=10, overlap_ms=1_000).secrets(10) == [
        (third, None),
        (second, 1_010),
        (first, 100),
    ]


def test_ten_may_be_live_and_the_ended_ones_make_room() -> None:
    ring = Keyring.new(Secret.new())
    for _ in range(MOST - 1):
        ring = ring.rotated(Secret.new(), None, now_ms=0, overlap_ms=DAY)

    with pytest.raises(Conflict) as refused:
        ring.rotated(Secret.new(), None, now_ms=0, overlap_ms=DAY)

    assert refused.value.code == "too_many_secrets"
    assert len(ring.rotated(Secret.new(), None, now_ms=DAY, overlap_ms=DAY).live(DAY)) == 2
    assert len(ring.rotated(Secret.new(), None, now_ms=0, overlap_ms=0).live(0)) == 1


def test_an_ed25519_key_signs_beside_and_is_rotated_with_the_secret() -> None:
    secret, signing, next_secret, next_signing = Secret.new(), SigningKey.new(), Secret.new(), SigningKey.new()
    ring = Keyring.new(secret, signing).rotated(next_secret, next_signing, now_ms=0, overlap_ms=DAY)

    assert [key for key, _ in ring.signing_keys(0)] == [next_signing, signing]
    assert ring.signing == next_signing
    entries = signed_headers("evt_1", 5, b"{}", ring.live(0))["webhook-signature"].split(" ")
    assert [entry.partition(",")[0] for entry in entries] == ["v1", "v1a", "v1", "v1a"]
    assert ring.with_signing(None).live(0) == (next_secret, secret)


def test_it_is_stored_and_read_back_the_same() -> None:
    ring = Keyring.new(Secret.new(), SigningKey.new()).rotated(Secret.new(), SigningKey.new(), now_ms=0, overlap_ms=DAY)

    assert Keyring.parse(ring.rows()) == ring


def test_no_key_shows_in_a_repr() -> None:
    secret, signing = Secret.new(), SigningKey.new()

    shown = repr(Keyring.new(secret, signing))

    assert secret.text not in shown
    assert repr(secret.key) not in shown
    assert repr(signing.seed) not in shown


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30)), max_size=8))
def test_whoever_knows_any_secret_whose_overlap_lasts_can_verify(steps: list[tuple[int, int]]) -> None:
    """The law of rotation: a receiver that changes its secret at any moment of the overlap misses nothing."""
    secrets = [Secret.new() for _ in range(len(steps) + 1)]
    ring, now, ends = Keyring.new(secrets[0]), 0, [10**9]
    for index, (wait, overlap) in enumerate(steps, start=1):
        now += wait
        ring = ring.rotated(secrets[index], None, now_ms=now, overlap_ms=overlap)
        ends = [min(end, now + overlap) for end in ends] + [10**9]
    for at in range(now, now + 32):
        headers = signed_headers("evt_1", 1, b"{}", ring.live(at))
        for secret, end in zip(secrets, ends, strict=True):
            if at < end:
                assert verify(headers, b"{}", [secret], now_s=1) == "evt_1"
        assert len(ring.live(at)) == len(list(itertools.filterfalse(lambda end, at=at: end <= at, ends)))  # type: ignore[misc]
