"""What the documents tell people to type works, pasted as it stands: every block of every page, on one stack.

`PAGE=docs/cli.md` runs that page alone, `PAGE=docs/cli.md,docs/bulk.md` those two. Blocks that cannot run here are
parsed: tests/unit/test_document_blocks.py.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from app.access import KeyService, Scope
from app.dev.localstack.stack import SANDBOX_OPTIONS, write_stack_env
from app.dev.sandbox.control import DEMO_NUMBERS
from app.settings import Settings
from tests.support.newcomer import ON_PATH, Newcomer, copy_of_the_project
from tests.support.pages import PAGES, PASTED, ROOT, blocks_of
from tests.support.sandbox import Sandbox, running_sandbox
from tests.support.servers import running_valkey, server_folder
from tests.support.stack import Stack, Timings, running_stack
from tests.support.typed_commands import typed_commands

KEPT = frozenset({"alembic_version", "workspaces", "carrier_accounts", "voice_projects"})
"""Tables that have rows in a new installation; the others are emptied between pages."""

TIMINGS = Timings(provider_timeout=5)


class DialledSandbox(Sandbox):
    """A sandbox whose SIP URI can be dialled, as that of ./run.py."""

    def settings(self) -> dict[str, str]:
        """Return the settings that lead to it."""
        return self.settings_with_sip()


class Installation:
    """A stack in a folder with the project, as ./run.py would have left both."""

    def __init__(self, folder: Path, stack: Stack, sandbox: Sandbox, trunkline: str) -> None:
        self._folder, self._stack, self._sandbox = folder, stack, sandbox
        made = {name: value for name, value in stack.environ.items() if name.lower() in Settings.model_fields}
        self._made = made | {"DATA_DIR": str(folder / ".data"), "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128"}
        copy_of_the_project(folder, trunkline)
        (folder / ".data").mkdir(mode=0o700)

    def newcomer(self) -> Newcomer:
        """Return somebody who begins a page: nothing but the sandbox's numbers is there, and a key."""
        # A worker remembers the account's numbers for a minute, by the SIDs that they had before the reset.
        self._stack.worker.kill()
        self._sandbox.reset()
        self._sandbox.seed(DEMO_NUMBERS)
        self._forget_rows()
        self._stack.start_worker()
        _, key = KeyService(self._stack.sessions).create("dev", [Scope.ADMIN])
        (self._folder / ".data" / "dev-key").write_text(f"{key}\n", encoding="utf-8")
        write_stack_env(self._folder / ".data" / "stack.env", self._made)
        path = os.pathsep.join([str(self._folder / ON_PATH), os.environ.get("PATH", os.defpath)])
        environ = {"PATH": path, "HOME": str(self._folder), "LANG": "C.UTF-8", "USER": os.environ.get("USER", "root")}
        addresses = {
            "localhost:8080": self._stack.api.base_url.removeprefix("http://"),
            "localhost:8190": self._sandbox.base_url.removeprefix("http://"),
        }
        return Newcomer(self._folder, environ, addresses)

    def _forget_rows(self) -> None:
        url = self._stack.database_url.replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            emptied = sql.SQL(", ").join(sql.Identifier(name) for (name,) in rows if name not in KEPT)
            connection.execute(sql.SQL("TRUNCATE {}").format(emptied))
            connection.execute("DELETE FROM workspaces WHERE slug <> 'default'")
            for table in ("carrier_accounts", "voice_projects"):
                query = sql.SQL("DELETE FROM {} WHERE id::text NOT LIKE '00000000-%%'").format(sql.Identifier(table))
                connection.execute(query)


@pytest.fixture
def installation(make_database: Callable[[], str]) -> Iterator[Installation]:
    """One for all pages: a start takes seconds."""
    with (
        server_folder() as folder,
        running_sandbox(options=SANDBOX_OPTIONS) as server,
        running_valkey() as valkey,
        typed_commands(folder) as trunkline,
    ):
        sandbox = DialledSandbox(server.url)
        with running_stack(make_database(), valkey.url, sandbox, TIMINGS) as stack:
            yield Installation(folder / "trunkline", stack, sandbox, trunkline)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the documents call the API with curl, which is not here")
def test_every_page_can_be_pasted(installation: Installation, subtests: pytest.Subtests) -> None:
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        blocks = blocks_of(page)
        if name not in os.environ.get("PAGE", name) or not any(block.mark in PASTED for block in blocks):
            continue
        with subtests.test(page=name):
            problems = installation.newcomer().read(blocks)
            assert not problems, "\n".join(problems)
