"""Secrets at rest: what opens, and all that must not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import InvalidInput, SecretUnreadable
from relay.vault import Vault, generate_master_key, parse_master_keys

OLD, NEW = parse_master_keys(f"{generate_master_key('old')},{generate_master_key('new')}")


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_is_sealed_opens_in_its_place_only(plain: bytes, context: str) -> None:
    vault = Vault([NEW])
    sealed = vault.seal(plain, context=context)

    assert vault.open(sealed, context=context) == plain
    assert plain not in sealed or len(plain) < 4
    with pytest.raises(SecretUnreadable):
        vault.open(sealed, context=context + "x")


def test_old_keys_still_open_and_new_ones_seal() -> None:
    before = Vault([OLD]).seal(b"secret", context="a")
    both = Vault([NEW, OLD])

    assert both.open(before, context="a") == b"secret"
    assert Vault.key_id(both.seal(b"secret", context="a")) == "new"
    with pytest.raises(SecretUnreadable, match="'old'"):
        Vault([NEW]).open(before, context="a")


@pytest.mark.parametrize("cut", [0, 1, 5, 14, 30, -1])
def test_altered_records_do_not_open(cut: int) -> None:
    vault = Vault([NEW])
    sealed = vault.seal(b"secret", context="a")
    altered = sealed[:cut] if cut >= 0 else sealed[:-1] + bytes([sealed[-1] ^ 1])

    with pytest.raises(SecretUnreadable):
        vault.open(altered, context="a")


@pytest.mark.parametrize("text", ["", "k1", "k1:", ":AAAA", "k1:AAAA", "k1:" + "!" * 44, "x" * 65 + ":" + "A" * 44])
def test_bad_master_keys_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_master_keys(text)


def test_a_vault_needs_a_key_and_hides_it() -> None:
    with pytest.raises(InvalidInput):
        Vault([])

    assert repr(NEW.key) not in repr(NEW)
