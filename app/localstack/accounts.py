"""Whom the stores run as: PostgreSQL refuses root, so root hands it to an account that owns nothing else."""

import hashlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from app.localstack.errors import StackError

SHARED_STATE = Path("/var/lib/trunkline")
"""Where root keeps the store when the project lies in a folder (such as /root) that the other account cannot enter."""


@dataclass(frozen=True)
class Account:
    """A user of this machine without rights of its own."""

    name: str
    uid: int
    gid: int

    def can_use(self, *paths: Path) -> bool:
        """Ask the kernel, as that account, whether it may enter or execute every path: that knows of ACLs too."""
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
    """Return the folder under SHARED_STATE that belongs to this data directory and to no other checkout's."""
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
