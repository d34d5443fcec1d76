"""Where commands go: `TRUNKLINE_URL` and `TRUNKLINE_KEY`, a profile of `config.toml`, or the installation itself."""

import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.cli.output import CommandError, command_error

URL, KEY, PROFILE = "TRUNKLINE_URL", "TRUNKLINE_KEY", "TRUNKLINE_PROFILE"
"""The variables that say it."""

DEFAULT_PROFILE = "default"
"""The profile that is used where none is named."""

FIELDS = frozenset({"url", "key", "workspace"})


@dataclass(frozen=True, slots=True)
class Target:
    """A server and the key for it."""

    url: str
    key: str = field(repr=False)
    source: str
    """Where the key was written, for people."""
    workspace: str | None = None
    """The workspace that an operator's key works in."""
    url_source: str = URL
    """Where the URL was written, for people."""


def config_path() -> Path:
    """Return the path of the file of profiles, by the XDG Base Directory Specification."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "trunkline" / "config.toml"


def find_target(profile: str | None, *, is_local: bool) -> Target | None:
    """Return the server that commands go to; None for the installation on this machine.

    `profile`, as `--profile` names it, counts before the variables, and these before the file's profile `default`.
    """
    if is_local:
        return None
    url = os.environ.get(URL)
    if profile is None and url is not None:
        return _of_environment(url) if url else None
    name = profile or os.environ.get(PROFILE)
    found = _profiles().get(name or DEFAULT_PROFILE)
    if found is None and name:
        raise command_error(f"There is no profile {name!r} in {config_path()}.")
    return None if found is None else _of_profile(name or DEFAULT_PROFILE, found)


def _of_environment(url: str) -> Target:
    key = os.environ.get(KEY, "")
    if not key:
        raise command_error(f"{URL} is set, and {KEY} is not: it is the API key for that server.")
    return Target(_checked_url(url, URL), _checked_key(key, KEY), KEY)


def _profiles() -> dict[str, Any]:
    path = config_path()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise command_error(f"{path} cannot be read: {error}") from error


def _of_profile(name: str, found: Any) -> Target:
    where = f"[{name}] in {config_path()}"
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _wrong(where, "is no table of texts")
    if unknown := sorted(set(found) - FIELDS):
        raise _wrong(where, f"has {', '.join(unknown)}, which mean nothing: it may have {', '.join(sorted(FIELDS))}")
    if not found.get("url"):
        raise _wrong(where, "has no url")
    key = found.get("key")
    if key:
        _refuse_readable()
    else:
        key = os.environ.get(KEY)
    if not key:
        raise _wrong(where, f"has no key, and {KEY} is not set")
    source = where if found.get("key") else KEY
    return Target(_checked_url(found["url"], where), _checked_key(key, source), source, found.get("workspace"), where)


def _wrong(where: str, what: str) -> CommandError:
    return command_error(f"The profile {where} {what}.")


def _refuse_readable() -> None:
    """Refuse a file with a key that others may read, as ssh does with its keys; only POSIX says who may."""
    path = config_path()
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise command_error(f"{path} has a key, and others may read the file: chmod 600 {path}")


def _checked_url(url: str, where: str) -> str:
    """Return the URL without white space around it and a slash at its end; refuse what is no address of a server."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        is_plain = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and " " not in url
    except ValueError:
        is_plain = False
    if not is_plain or parts.username is not None or parts.query or parts.fragment:
        raise command_error(f"{where}: {url!r} is no URL of a server, as https://trunkline.example.com.")
    return url.rstrip("/")


def _checked_key(key: str, where: str) -> str:
    """Return the key without white space around it, as a mounted secret has it; refuse what no key has."""
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise command_error(f"{where}: the key has characters that no key has.")
    return key
