"""Credentials in rows: sealed under the field of their row, opened for as long as they are valid, never shown."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from app.accounts.credentials import (
    Credential,
    open_credential,
    open_old_credential,
    set_credential,
    set_old_credential,
)
from app.db.models import CarrierAccount, VoiceProject
from app.sealing import Sealer, SealError, is_sealed

SEALER = Sealer([b"k" * 32])
SECRET = "marked-secret"
NOW = datetime(2026, 11, 29, tzinfo=UTC)


def account() -> CarrierAccount:
    row = CarrierAccount(id=uuid.uuid4(), name="acme")
    set_credential(row, Credential("AC1", SECRET), SEALER)
    return row


def test_a_credential_is_stored_sealed_and_opened_again() -> None:
    row = account()

    assert is_sealed(row.sealed_secret or "")
    assert open_credential(row, SEALER) == Credential("AC1", SECRET)


def test_a_credential_copied_to_another_row_or_table_does_not_open() -> None:
    row = account()
    other = CarrierAccount(id=uuid.uuid4(), username="AC1", sealed_secret=row.sealed_secret)
    project = VoiceProject(id=row.id, username="AC1", sealed_secret=row.sealed_secret)

    for moved in (other, project):
        with pytest.raises(SealError):
            open_credential(moved, SEALER)


def test_a_credential_is_never_stored_in_clear() -> None:
    row = CarrierAccount(id=uuid.uuid4(), name="acme")

    with pytest.raises(ValueError, match="no key"):
        set_credential(row, Credential("AC1", SECRET), Sealer())
    assert row.sealed_secret is None


def test_the_environments_row_has_no_credential() -> None:
    assert open_credential(CarrierAccount(id=uuid.uuid4()), SEALER) is None


def test_an_old_credential_opens_until_its_end() -> None:
    row = account()
    set_old_credential(row, Credential("AC1", "old"), NOW + timedelta(hours=1), SEALER)

    assert open_old_credential(row, SEALER, NOW) == Credential("AC1", "old")
    assert open_old_credential(row, SEALER, NOW + timedelta(hours=1)) is None
    assert open_old_credential(account(), SEALER, NOW) is None


def test_no_text_of_a_credential_has_the_secret() -> None:
    row = account()

    for shown in (
        repr(Credential("AC1", SECRET)),
        str(Credential("AC1", SECRET)),
        f"{Credential('AC1', SECRET)}",
        repr(row),
    ):
        assert SECRET not in shown
