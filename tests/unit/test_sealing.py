"""Secrets at rest: what opens where, and what does not."""

import pytest

from app.sealing import Field, Sealer, SealError, is_sealed, new_key, parse_keys

FIELD = Field("webhook_endpoints", "secret", "7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD, NEW = (parse_keys(new_key()) for _ in range(2))


def test_what_is_sealed_opens_with_its_key_and_shows_nothing() -> None:
    stored = Sealer(OLD).seal(SECRET, FIELD)
    assert is_sealed(stored)
    assert SECRET not in stored
    assert SECRET.removeprefix("whsec_") not in stored
    assert Sealer(OLD).open(stored, FIELD) == SECRET


def test_the_same_secret_is_sealed_anew_each_time() -> None:
    first, second = (Sealer(OLD).seal(SECRET, FIELD) for _ in range(2))
    assert not set(first.split(":")[2:]) & set(second.split(":")[2:])


@pytest.mark.parametrize(
    "other",
    [FIELD._replace(table="agents"), FIELD._replace(column="previous_secret"), FIELD._replace(row="another")],
    ids=["table", "column", "row"],
)
def test_text_that_was_copied_elsewhere_does_not_open(other: Field) -> None:
    stored = Sealer(OLD).seal(SECRET, FIELD)
    with pytest.raises(SealError, match="another row"):
        Sealer(OLD).open(stored, other)


@pytest.mark.parametrize("part", [2, 3], ids=["wrapped key", "ciphertext"])
def test_text_that_was_altered_does_not_open(part: int) -> None:
    parts = Sealer(OLD).seal(SECRET, FIELD).split(":")
    parts[part] = ("B" if parts[part][20] == "A" else "A").join((parts[part][:20], parts[part][21:]))
    with pytest.raises(SealError):
        Sealer(OLD).open(":".join(parts), FIELD)


@pytest.mark.parametrize("damaged", ["sealed-1:", "sealed-1:a:b", "sealed-1:{key}:*:*", "sealed-1:{key}:ä:ä"])
def test_a_damaged_text_is_an_error_of_ours(damaged: str) -> None:
    key_id = Sealer(OLD).seal(SECRET, FIELD).split(":")[1]
    with pytest.raises(SealError):
        Sealer(OLD).open(damaged.format(key=key_id), FIELD)


def test_a_key_that_is_missing_is_named_and_shown_to_nobody() -> None:
    stored = Sealer(OLD).seal(SECRET, FIELD)
    with pytest.raises(SealError, match=stored.split(":")[1]):
        Sealer(NEW).open(stored, FIELD)
    assert OLD[0].hex() not in repr(Sealer(OLD))


def test_after_a_new_key_only_the_wrap_is_made_anew() -> None:
    stored, both = Sealer(OLD).seal(SECRET, FIELD), Sealer((*NEW, *OLD))
    again = both.rewrapped(stored, FIELD)
    assert again.split(":")[3] == stored.split(":")[3]
    assert again != stored
    assert Sealer(NEW).open(again, FIELD) == SECRET
    assert both.rewrapped(again, FIELD) == again


def test_what_was_in_clear_is_read_and_then_sealed() -> None:
    assert Sealer(NEW).open(SECRET, FIELD) == SECRET
    sealed = Sealer(NEW).rewrapped(SECRET, FIELD)
    assert Sealer(NEW).open(sealed, FIELD) == SECRET
    assert is_sealed(sealed)


def test_without_keys_nothing_is_sealed_and_what_is_does_not_open() -> None:
    assert Sealer().seal(SECRET, FIELD) == Sealer().rewrapped(SECRET, FIELD) == SECRET
    with pytest.raises(SealError, match="CREDENTIAL_KEYS"):
        Sealer().open(Sealer(OLD).seal(SECRET, FIELD), FIELD)


@pytest.mark.parametrize("text", ["x", ",", "AAAA", "AAAA,AAAA", "A" * 42, "ä" * 44])
def test_keys_are_32_bytes_in_base64(text: str) -> None:
    with pytest.raises(ValueError, match="openssl rand") as refused:
        parse_keys(text)
    assert text not in str(refused.value)
