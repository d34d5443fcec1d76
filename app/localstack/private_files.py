"""Files that only their owner reads: passwords, keys and the environment of the running stack."""

import os
import secrets
from pathlib import Path

PASSWORD_BYTES = 24
"""192 bits of randomness: 32 URL-safe characters, so that no URL needs escaping."""


def write_private(path: Path, text: str) -> None:
    """Write `path` with mode 0600 in one move: a reader sees the old text or the new, and nobody else sees either."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def read_private(path: Path) -> str | None:
    """Return the stripped text, or None when the file is absent or empty."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def kept_password(path: Path) -> str:
    """Return the password in `path`, making it at the first call."""
    known = read_private(path)
    if known is None:
        known = secrets.token_urlsafe(PASSWORD_BYTES)
        write_private(path, known + "\n")
    return known
