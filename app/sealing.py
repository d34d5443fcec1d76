"""Secrets at rest: sealed with AES-256-GCM under a key of their own, which one of CREDENTIAL_KEYS wraps.

Envelope encryption: a new key of the installation re-wraps the small data keys, and no secret is read for it. What is
sealed belongs to one field of one row: table, column, row and version are authenticated with it, so that text copied
into another row does not open there. AES-GCM by `cryptography`: https://cryptography.io/en/latest/hazmat/primitives/aead/
"""

import base64
import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
"""Bytes of a key: AES-256."""

NONCE_BYTES = 12
"""Bytes of a nonce, as GCM wants it. A data key seals one text, and a key wraps far fewer than 2**32 of them."""

VERSION = "sealed-1"
"""What a sealed text begins with. `:` separates its parts: version, id of the wrapping key, wrapped key, ciphertext."""

KEY_ID_DIGITS = 8
"""Hex digits of a key's SHA-256 by which a sealed text names it."""


class SealError(Exception):
    """A text that was sealed cannot be opened: its key is not among ours, or it was altered or moved."""


class Field(NamedTuple):
    """One field of one row."""

    table: str
    column: str
    row: object
    """The row's id."""


class Sealer:
    """Seals and opens; safe to share. `keys` are 32 bytes each: the first one seals, all of them open.

    Without keys nothing is sealed, and what was stored in clear is read as it is.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = {_key_id(key): AESGCM(key) for key in keys}
        self._first = _key_id(keys[0]) if keys else ""

    def __repr__(self) -> str:
        return f"Sealer({len(self._keys)} keys)"

    @property
    def can_seal(self) -> bool:
        """Whether there is a key."""
        return bool(self._first)

    def seal(self, secret: str, field: Field) -> str:
        """Return the secret as it is to be stored in this field."""
        if not self._first:
            return secret
        data_key = AESGCM.generate_key(KEY_BYTES * 8)
        sealed = _encrypt(AESGCM(data_key), secret.encode(), _context(field))
        return self._text(data_key, sealed, field)

    def open(self, stored: str, field: Field) -> str:
        """Return the secret that this field holds; `SealError` where it cannot be opened."""
        if not is_sealed(stored):
            return stored
        data_key, sealed = self._unwrap(stored, field)
        return _decrypt(AESGCM(data_key), sealed, _context(field)).decode()

    def rewrapped(self, stored: str, field: Field) -> str:
        """Return the field's text wrapped by the first key, and sealed if it was in clear."""
        if not self._first or not is_sealed(stored):
            return self.seal(stored, field)
        if stored.split(":")[1] == self._first:
            return stored
        return self._text(*self._unwrap(stored, field), field)

    def _text(self, data_key: bytes, sealed: bytes, field: Field) -> str:
        wrapped = _encrypt(self._keys[self._first], data_key, _context(field, self._first))
        return ":".join((VERSION, self._first, _as_text(wrapped), _as_text(sealed)))

    def _unwrap(self, stored: str, field: Field) -> tuple[bytes, bytes]:
        """Return the data key, and the ciphertext that it opens."""
        parts = stored.split(":")
        if len(parts) != len(("version", "key", "wrapped", "sealed")):
            raise SealError("A sealed text is damaged.")
        _, key_id, wrapped, sealed = parts
        key = self._keys.get(key_id)
        if key is None:
            raise SealError(f"The key {key_id} that a stored secret was sealed with is not in CREDENTIAL_KEYS.")
        return _decrypt(key, _as_bytes(wrapped), _context(field, key_id)), _as_bytes(sealed)


def is_sealed(stored: str) -> bool:
    """Tell whether a stored text is sealed, and not a secret in clear."""
    return stored.startswith(f"{VERSION}:")


def parse_keys(text: str) -> tuple[bytes, ...]:
    """Read keys in Base64 with commas between them; `ValueError` with the reason, which quotes none of it."""
    keys = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            key = base64.b64decode(part, validate=True)
        except ValueError:
            raise ValueError("must be Base64 (openssl rand -base64 32)") from None
        if len(key) != KEY_BYTES:
            raise ValueError(f"must be {KEY_BYTES} bytes each (openssl rand -base64 {KEY_BYTES})")
        keys.append(key)
    if not keys:
        raise ValueError("has no key (openssl rand -base64 32)")
    return tuple(keys)


def new_key() -> str:
    """Return a new key as CREDENTIAL_KEYS has it."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:KEY_ID_DIGITS]


def _context(field: Field, *more: str) -> bytes:
    """Return what is authenticated with a ciphertext; no part may hold the separator."""
    return "\0".join((VERSION, field.table, field.column, str(field.row), *more)).encode()


def _encrypt(key: AESGCM, clear: bytes, context: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + key.encrypt(nonce, clear, context)


def _decrypt(key: AESGCM, sealed: bytes, context: bytes) -> bytes:
    try:
        return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        raise SealError("A sealed text was altered, or belongs to another row.") from None


def _as_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def _as_bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text.encode("ascii"))
    except (ValueError, UnicodeEncodeError):
        raise SealError("A sealed text is damaged.") from None
