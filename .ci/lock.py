#!/usr/bin/env python
"""Makes both locks anew from pyproject.toml; run it with .venv/bin/python, --upgrade moves to newer versions.

requirements.lock has everything; requirements-runtime.lock has what production needs, at the same versions: the first
is the constraint of the second.

Before 23.3 pip pinned `name` and `name[extra]` apart: a requirement of either form that has no line of its own in the
lock counted as not pinned. uv writes one line for both, so the other forms are added here.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
RUNTIME_LOCK = ROOT / "requirements-runtime.lock"

COMPILE = (
    *("pip", "compile", "pyproject.toml", "--python-version", "3.11"),
    *("--universal", "--generate-hashes", "--no-strip-extras", "--no-emit-index-url", "--no-header", "--no-annotate"),
)

HEADER = """\
# Every package of {what}, each file by hash: made from pyproject.toml by .ci/lock.py.
# A package that is required with an extra has a line for either form: pip before 23.3 looks for exactly that.
# It must hold no address.
"""

LOCKS = {
    LOCK: ("./run.py, its tests and its checks", ("--group", "local", "--group", "dev")),
    RUNTIME_LOCK: ("a production installation", ("--constraint", LOCK.name)),
}
"""Lock -> what it is for, and uv's options for it; the second needs the first."""

ENTRY = re.compile(r"(?m)^(?P<name>[a-z0-9][a-z0-9._-]*)(?:\[(?P<extras>[^]]+)\])?(?P<pin>==(?:.*\\\n)*.*\n)")
"""One package: its line, and the lines of hashes that it is continued with."""


def with_every_form(compiled: str) -> str:
    """Return the lock with a line for the bare package, for each extra and for all of them, where one has extras."""

    def spell_out(entry: re.Match[str]) -> str:
        extras = entry["extras"].split(",") if entry["extras"] else []
        forms = ["", *(f"[{extra}]" for extra in extras), *([f"[{','.join(extras)}]"] if len(extras) > 1 else [])]
        return "".join(f"{entry['name']}{form}{entry['pin']}" for form in forms)

    return ENTRY.sub(spell_out, compiled)


def compile_lock(lock: Path, arguments: Sequence[str]) -> int:
    """Write one lock; what it pins already stays as it is, unless the arguments say otherwise."""
    what, options = LOCKS[lock]
    # uv takes what is pinned from the output file.
    command = [str(ROOT / ".venv" / "bin" / "uv"), *COMPILE, *options, "--output-file", lock.name, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - the locked uv
    if not done.returncode:
        lock.write_text(HEADER.format(what=what) + with_every_form(done.stdout), encoding="utf-8")
    return done.returncode


def main(arguments: Sequence[str]) -> int:
    """Write the locks; arguments go to uv, as in `--upgrade-package flask`. Return uv's exit code if it fails."""
    return next((code for lock in LOCKS if (code := compile_lock(lock, arguments))), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
