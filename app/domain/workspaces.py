"""Workspaces, and the accounts at the providers that their agents use."""

import re
import uuid
from enum import StrEnum
from typing import NamedTuple

DEFAULT_WORKSPACE = uuid.UUID("00000000-0000-4000-8000-000000000001")
"""The workspace `default`, which every installation has: what was there before there were others is in it."""

DEFAULT_SLUG = "default"

ENVIRONMENT_ACCOUNT = uuid.UUID("00000000-0000-4000-8000-000000000002")
"""The carrier account whose credentials are TWILIO_* in the environment; its row holds none."""

ENVIRONMENT_PROJECT = uuid.UUID("00000000-0000-4000-8000-000000000003")
"""The voice project whose credentials are LIVEKIT_* in the environment; its row holds none."""

MAX_SLUG = 40

SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
"""A workspace's name in headers, bodies and commands: 1 to `MAX_SLUG` characters."""

WORKSPACE_HEADER = "Trunkline-Workspace"
"""Names the workspace that a request of an operator's key works in."""


class Scope(StrEnum):
    """What a key may do; each scope includes the ones before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class CredentialStatus(StrEnum):
    """`status` of a carrier account or voice project."""

    PENDING = "pending"
    """Not checked since it was saved or rotated."""
    VERIFIED = "verified"
    """The last check succeeded."""
    INVALID = "invalid"
    """The provider refuses the credential: its operations rest until it is rotated or accepted again."""


class AccountKind(StrEnum):
    """What a credential opens; `account.kind` in webhooks."""

    CARRIER = "carrier_account"
    VOICE = "voice_project"

    @property
    def label(self) -> str:
        """For sentences."""
        return self.value.replace("_", " ")


class AccountIds(NamedTuple):
    """Where an agent's path is built: at which carrier account, and in which voice project."""

    carrier_account_id: uuid.UUID
    voice_project_id: uuid.UUID


ENVIRONMENT = AccountIds(ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT)
"""The environment's credentials for both providers."""
