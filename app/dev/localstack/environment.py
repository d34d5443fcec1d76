"""What the user has set, what is left for us to provide, and the environment that the processes get."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from app.dev.localstack.machine import StackError, write_private

PORT = 8080
"""Where the API listens unless PORT says otherwise."""

FLOWER_PORT = 5555
"""Where Flower listens unless FLOWER_PORT says otherwise: its own default."""


@dataclass(frozen=True)
class Given:
    """The user's settings: `.env` under the environment."""

    values: Mapping[str, str]
    root: Path

    @property
    def data_dir(self) -> Path:
        """Where everything that survives a restart lies; relative to the project, not to the caller's folder."""
        return self.root / (self.values.get("DATA_DIR") or ".data")

    @property
    def embeds_postgres(self) -> bool:
        """Whether PostgreSQL is ours to start."""
        return not self.values.get("DATABASE_URL")

    @property
    def embeds_valkey(self) -> bool:
        """Whether Valkey is ours to start."""
        return not self.values.get("REDIS_URL")

    @property
    def uses_sandbox(self) -> bool:
        """Whether the sandbox stands in for both providers; StackError where only one of them is set."""
        names = ("TWILIO_ACCOUNT_SID", "LIVEKIT_API_KEY")
        missing = [name for name in names if not self.values.get(name)]
        if len(missing) == 1:
            (other,) = set(names) - set(missing)
            raise StackError(f"{missing[0]} is missing ({other} is set): set both, or neither for the sandbox")
        return bool(missing)

    def port(self, name: str, default: int) -> int:
        """Return the port that the user set in the variable `name`, else `default`."""
        text = self.values.get(name) or str(default)
        if not text.isdigit() or not 0 < int(text) < 2**16:
            raise StackError(f"{name} must be a port number, not {text!r}")
        return int(text)


def read_given(root: Path) -> Given:
    """Read what the user has set, before any setting of the application can be complete."""
    try:
        in_file = {name: value for name, value in dotenv_values(root / ".env").items() if value is not None}
    except OSError as error:
        raise StackError(f"{root / '.env'} cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise StackError(f"{root / '.env'} is not UTF-8: save it as that") from error
    return Given(values={**in_file, **os.environ}, root=root)


def child_environment(given: Given, made: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the processes: what the user set, what we made, and the tools of this Python first."""
    values = {**given.values, **made}
    values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", os.defpath)])
    values["PYTHONUNBUFFERED"] = "1"
    # Their output comes to us, and into logs, whatever the user's terminal can show.
    values["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    return values


def write_stack_env(path: Path, made: Mapping[str, str]) -> None:
    """Write what we made (not what the user set: no copy of a secret of theirs) for commands in a second terminal."""
    lines = ["# Written by ./run.py while it runs; read by the flask command. Removed at its end."]
    lines += [f"{name}='{_escaped(value)}'" for name, value in made.items()]
    write_private(path, "\n".join(lines) + "\n")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
