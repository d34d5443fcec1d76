"""The credentials in the rows of carrier accounts and voice projects: sealed, opened, and never shown."""

from datetime import datetime
from typing import NamedTuple

from app.db.models import CarrierAccount, VoiceProject
from app.sealing import Field, Sealer

AccountRow = CarrierAccount | VoiceProject
"""A row with a credential."""


class Credential(NamedTuple):
    """A user name and a secret that a provider accepts, or did."""

    username: str
    """Of Twilio: the account's SID or that of an API key; of LiveKit: the API key."""
    secret: str

    def __repr__(self) -> str:
        """Show the user name alone: a credential may end up in a traceback."""
        return f"Credential({self.username!r})"


def secret_field(row: AccountRow) -> Field:
    """Return the field of the secret that is used."""
    return Field(row.__tablename__, "sealed_secret", row.id)


def old_secret_field(row: AccountRow) -> Field:
    """Return the field of the secret before the last rotation."""
    return Field(row.__tablename__, "sealed_old_secret", row.id)


def open_credential(row: AccountRow, sealer: Sealer) -> Credential | None:
    """Return the credential; None for the environment's. `SealError` where it cannot be opened."""
    if row.sealed_secret is None or row.username is None:
        return None
    return Credential(row.username, sealer.open(row.sealed_secret, secret_field(row)))


def open_old_credential(row: AccountRow, sealer: Sealer, now: datetime) -> Credential | None:
    """Return the credential before the last rotation while it is valid; `SealError` where it cannot be opened."""
    until = row.old_valid_until
    if row.sealed_old_secret is None or row.old_username is None or until is None or until <= now:
        return None
    return Credential(row.old_username, sealer.open(row.sealed_old_secret, old_secret_field(row)))


def set_credential(row: AccountRow, credential: Credential, sealer: Sealer) -> None:
    """Store the credential, sealed; the row has its id. `ValueError` without a key: never in clear."""
    if not sealer.can_seal:
        raise ValueError("There is no key to seal a credential with.")
    row.username = credential.username
    row.sealed_secret = sealer.seal(credential.secret, secret_field(row))


def set_old_credential(row: AccountRow, credential: Credential, until: datetime, sealer: Sealer) -> None:
    """Keep a credential until then, sealed."""
    row.old_username, row.old_valid_until = credential.username, until
    row.sealed_old_secret = sealer.seal(credential.secret, old_secret_field(row))
