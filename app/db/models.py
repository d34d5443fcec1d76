"""The rows: agents, operations, their steps, the ledger of resources, the event trail, audits, bulks."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from app.db.visibility import Owned, seen_workspace, workspace_column
from app.domain.calls import CallStatus, CallVerdict, Reachability
from app.domain.findings import AuditStatus, Health
from app.domain.operations import (
    OPEN_BULKS,
    OPEN_STATUSES,
    BulkKind,
    BulkStatus,
    Direction,
    ItemKind,
    ItemStatus,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
    TrunkMode,
    TrunkState,
    check_move,
    direction_of,
)
from app.domain.workspaces import (
    DEFAULT_WORKSPACE,
    ENVIRONMENT_ACCOUNT,
    ENVIRONMENT_PROJECT,
    AccountIds,
    CredentialStatus,
)

ENUM_LENGTH = 32
"""Characters kept for a status, so that a longer name later needs no change of type."""

IS_OPEN = "status IN (" + ", ".join(f"'{status}'" for status in sorted(OPEN_STATUSES)) + ")"
"""SQL for an operation that is not final: the condition of the partial indexes."""

OTHER_ACCOUNTS = f"carrier_account_id <> '{ENVIRONMENT_ACCOUNT}' OR voice_project_id <> '{ENVIRONMENT_PROJECT}'"
"""SQL for agents that do not use the environment's credentials for both."""


def status_column(values: type[StrEnum], name: str) -> Enum:
    """Return the type of a status column: text, and a CHECK named `name` of the values."""
    return Enum(
        values,
        native_enum=False,
        create_constraint=True,
        values_callable=lambda members: [member.value for member in members],
        length=ENUM_LENGTH,
        name=name,
    )


class Base(DeclarativeBase):
    """Naming convention and column types that every row shares."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own hook
        str: Text(),
        datetime: DateTime(timezone=True),
        # None is SQL's NULL: JSON's null is a value, which `coalesce` and IS NULL take for one.
        dict[str, Any]: JSONB(none_as_null=True),
    }


class Workspace(Base):
    """A team: its agents, bulks, webhooks and keys are seen by nobody else but operators."""

    __tablename__ = "workspaces"
    __table_args__ = (Index("uq_workspaces_slug", "slug", unique=True, postgresql_where=text("deleted_at IS NULL")),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    slug: Mapped[str]
    """Its name in headers, bodies and commands; never changed."""
    name: Mapped[str]
    carrier_account_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("carrier_accounts.id", use_alter=True), default=ENVIRONMENT_ACCOUNT
    )
    """What its agents use where they name no other; so the next."""
    voice_project_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("voice_projects.id", use_alter=True), default=ENVIRONMENT_PROJECT
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]
    """When it was deleted; the row stays for the sake of the trail, and its slug is free."""


class CredentialColumns:
    """What carrier accounts and voice projects have in common."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("workspaces.id"))
    """Whose it is; null: the installation's, for every workspace that an operator gives it to."""
    name: Mapped[str]
    sealed_secret: Mapped[str | None]
    """Sealed (`app.sealing`); null in the rows of the environment, whose secrets are never stored."""
    old_username: Mapped[str | None]
    """The credential before the last rotation, used by nobody but for `old_valid_until` should the new one be refused;
    the sweeper erases it then."""
    sealed_old_secret: Mapped[str | None]
    old_valid_until: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(default=1, server_default=text("1"))
    """Counts changes of what a client is built of: a process that has an older one builds it anew."""
    rate: Mapped[str] = mapped_column(default="auto", server_default=text("'auto'"))
    """Requests per second of all processes; "auto": found from the provider's 429s; "off": not limited."""
    in_flight: Mapped[int | None]
    """Concurrent requests of all processes; not limited if null."""
    status: Mapped[CredentialStatus] = mapped_column(
        status_column(CredentialStatus, "status"), default=CredentialStatus.PENDING
    )
    checked_at: Mapped[datetime | None]
    checks: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list, server_default=text("'[]'"))
    """The named checks of the last time: name, ok, detail, fix."""
    error_code: Mapped[str | None]
    """Why it is invalid."""
    error_detail: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]
    """Set by DELETE, which erases the credential; the row stays for the sake of the agents and trunks that name it."""


class CarrierAccount(CredentialColumns, Base):
    """A Twilio account, or a subaccount, and a credential for it."""

    __tablename__ = "carrier_accounts"

    account_sid: Mapped[str | None]
    """Never changed; null for the environment's."""
    username: Mapped[str | None]
    """The account's SID for an auth token, or the SID of an API key."""
    base_url: Mapped[str | None]
    """Another server than Twilio's, or its host in a region."""
    trunk_limit: Mapped[int] = mapped_column(default=100, server_default=text("100"))


class VoiceProject(CredentialColumns, Base):
    """A LiveKit project and an API key of it."""

    __tablename__ = "voice_projects"

    url: Mapped[str | None]
    """Null for the environment's; so the next two."""
    username: Mapped[str | None]
    """The API key."""
    sip_uri: Mapped[str | None]
    allowed_addresses: Mapped[list[str]] = mapped_column(JSONB, default=list, server_default=text("'[]'"))
    """CIDR blocks that may call its trunks; empty: all."""
    room_presets: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    """Null: not known."""


class Agent(Owned, Base):
    """A voice agent, the number that rings it, and the id of every resource on the path between them."""

    __tablename__ = "agents"
    __table_args__ = (
        Index(
            "uq_agents_twilio_phone_number",
            "twilio_phone_number",
            unique=True,
            postgresql_where=text("twilio_phone_number IS NOT NULL"),
        ),
        Index(
            "uq_agents_external_id",
            "workspace_id",
            "external_id",
            unique=True,
            postgresql_where=text("external_id IS NOT NULL AND deleted_at IS NULL"),
        ),
        Index("ix_agents_page", "created_at", "id", postgresql_where=text("deleted_at IS NULL")),
        Index("ix_agents_status_page", "phone_provisioning_status", "created_at", "id"),
        Index("ix_agents_drifted_page", "created_at", "id", postgresql_where=text("health_state = 'DRIFTED'")),
        Index(
            "ix_agents_search",
            text("search_keys(search_fold(agent_words(name, external_id, twilio_phone_number)))"),
            postgresql_using="gin",
        ),
        Index(
            "ix_agents_adopted_inbound_trunk", "livekit_inbound_trunk_id", postgresql_where=text("adopted IS NOT NULL")
        ),
        Index(
            "ix_agents_adopted_dispatch_rule", "livekit_dispatch_rule_id", postgresql_where=text("adopted IS NOT NULL")
        ),
        Index("ix_agents_by_name", text("search_fold(name)"), "id", postgresql_where=text("deleted_at IS NULL")),
        Index(
            "ix_agents_by_number",
            text("coalesce(twilio_phone_number, 'none')"),
            "id",
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index("ix_agents_by_change", "updated_at", "id", postgresql_where=text("deleted_at IS NULL")),
        Index("ix_agents_trunk_id", "trunk_id", postgresql_where=text("trunk_id IS NOT NULL")),
        Index(
            "ix_agents_workspace_page", "workspace_id", "created_at", "id", postgresql_where=text("deleted_at IS NULL")
        ),
        Index(
            "ix_agents_other_accounts",
            "carrier_account_id",
            "voice_project_id",
            postgresql_where=text(OTHER_ACCOUNTS),
        ),
        Index(
            "ix_agents_own_trunk",
            "twilio_trunk_sid",
            postgresql_where=text("trunk_id IS NULL AND twilio_trunk_sid IS NOT NULL"),
        ),
        Index("ix_agents_unreachable_page", "created_at", "id", postgresql_where=text("reachability = 'UNREACHABLE'")),
        Index("ix_agents_monitored", "monitor_due_at", postgresql_where=text("options -> 'monitor' IS NOT NULL")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID] = workspace_column()
    carrier_account_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("carrier_accounts.id"), default=ENVIRONMENT_ACCOUNT, server_default=text(f"'{ENVIRONMENT_ACCOUNT}'")
    )
    """Where its path is built; never changed, and so the next."""
    voice_project_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("voice_projects.id"), default=ENVIRONMENT_PROJECT, server_default=text(f"'{ENVIRONMENT_PROJECT}'")
    )
    external_id: Mapped[str | None]
    """The id that its client knows it by, unique in its workspace."""
    name: Mapped[str]
    livekit_agent_name: Mapped[str]
    agent_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    options: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))
    """What is set of `app.domain.options`, as the API takes it."""
    version: Mapped[int] = mapped_column(default=1, server_default=text("1"))
    """Counts the changes of what PATCH changes: name, metadata, names at LiveKit and options."""
    phone_provisioning_status: Mapped[PhoneStatus] = mapped_column(
        status_column(PhoneStatus, "phone_provisioning_status"), default=PhoneStatus.NOT_PROVISIONED
    )
    twilio_phone_number: Mapped[str | None]
    """Claimed from PENDING until the last resource is confirmed gone."""
    trunk_mode: Mapped[TrunkMode] = mapped_column(
        status_column(TrunkMode, "trunk_mode"), default=TrunkMode.SHARED, server_default=TrunkMode.SHARED
    )
    trunk_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("trunks.id"))
    """The trunk that it has a place on; null for one whose trunk is its own. Given back with the number."""
    twilio_phone_number_sid: Mapped[str | None]
    twilio_trunk_sid: Mapped[str | None]
    twilio_origination_url_sid: Mapped[str | None]
    livekit_inbound_trunk_id: Mapped[str | None]
    livekit_dispatch_rule_id: Mapped[str | None]
    previous_routing: Mapped[dict[str, Any] | None]
    adopted: Mapped[dict[str, Any] | None]
    """Step -> what a path that somebody made by hand was before it was adopted (`app.path.spec.Adopted`)."""
    reachability: Mapped[Reachability] = mapped_column(
        status_column(Reachability, "reachability"), default=Reachability.UNKNOWN, server_default=Reachability.UNKNOWN
    )
    monitor_due_at: Mapped[datetime | None]
    """When the next test call of its monitor is due; null: at once, where it has a monitor and a number."""
    health_state: Mapped[Health] = mapped_column(
        status_column(Health, "health_state"), default=Health.UNKNOWN, server_default=Health.UNKNOWN
    )
    health_checked_at: Mapped[datetime | None]
    health_findings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list, server_default=text("'[]'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    deleted_at: Mapped[datetime | None]
    """Set by DELETE; the row stays for the sake of the event trail."""

    @property
    def accounts(self) -> AccountIds:
        """Where its path is built."""
        return AccountIds(self.carrier_account_id, self.voice_project_id)

    def move_to(self, status: PhoneStatus) -> None:
        """Change the status; `IllegalMoveError` when the table of moves does not allow it."""
        check_move(self.phone_provisioning_status, status)
        self.phone_provisioning_status = status


class Trunk(Base):
    """A Twilio trunk that numbers share; its members are the agents that name it, and nothing counts them but that."""

    __tablename__ = "trunks"
    __table_args__ = (
        CheckConstraint(
            "state <> 'ACTIVE' OR (twilio_trunk_sid IS NOT NULL AND twilio_origination_url_sid IS NOT NULL)",
            name="active_is_made",
        ),
        Index(
            "uq_trunks_shard",
            "carrier_account_id",
            "profile_hash",
            "shard",
            unique=True,
            postgresql_where=text("state <> 'GONE'"),
        ),
        Index("uq_trunks_twilio_trunk_sid", "twilio_trunk_sid", unique=True),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    """Its first 12 hex digits are in the trunk's tag at Twilio."""
    carrier_account_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("carrier_accounts.id"), default=ENVIRONMENT_ACCOUNT, server_default=text(f"'{ENVIRONMENT_ACCOUNT}'")
    )
    profile: Mapped[dict[str, Any]]
    """The settings that its numbers have in common (`app.trunks.pool.profile_json`)."""
    profile_hash: Mapped[str]
    shard: Mapped[int]
    """From 1, among the trunks of one profile."""
    state: Mapped[TrunkState] = mapped_column(status_column(TrunkState, "state"), default=TrunkState.CREATING)
    twilio_trunk_sid: Mapped[str | None]
    twilio_origination_url_sid: Mapped[str | None]
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    """Until then one worker alone makes what is missing of it, or deletes it."""
    intent: Mapped[str | None]
    """The step whose object is being made, written before the call: while it is set, look before making."""
    unsettled_until: Mapped[datetime | None]
    """Until then a request without a response may take effect: nobody looks or makes before."""
    checked_at: Mapped[datetime | None]
    """When trunk and origination URL were last read or made, and found to be right."""
    emptied_at: Mapped[datetime | None]
    """Since when no agent names it; null while one does."""
    is_full: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """Its last place was taken, and it is not known that somebody left it: all are counted before one is added."""
    health_state: Mapped[Health] = mapped_column(
        status_column(Health, "health_state"), default=Health.UNKNOWN, server_default=Health.UNKNOWN
    )
    health_checked_at: Mapped[datetime | None]
    health_findings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list, server_default=text("'[]'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    gone_at: Mapped[datetime | None]


class Operation(Owned, Base):
    """One run of provisioning or deprovisioning for an agent: the row is the truth, a message only names it."""

    __tablename__ = "operations"
    __table_args__ = (
        Index("uq_operations_open_agent", "agent_id", unique=True, postgresql_where=text(IS_OPEN)),
        Index("uq_operations_open_target", "target_agent_id", unique=True, postgresql_where=text(IS_OPEN)),
        Index("ix_operations_wake_at", "wake_at", postgresql_where=text(IS_OPEN)),
        Index("ix_operations_bulk_id", "bulk_id", postgresql_where=text("bulk_id IS NOT NULL")),
        Index(
            "ix_operations_failed_search",
            text("search_keys(search_fold(phone_number))"),
            postgresql_using="gin",
            postgresql_where=text("status = 'failed'"),
        ),
        Index("ix_operations_page", "created_at", "id"),
        Index("ix_operations_status_page", "status", "created_at", "id"),
        Index("ix_operations_workspace_page", "workspace_id", "created_at", "id"),
        Index("ix_operations_agent_page", "agent_id", "created_at", "id"),
        Index(
            "ix_operations_target_page",
            "target_agent_id",
            "created_at",
            "id",
            postgresql_where=text("target_agent_id IS NOT NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    agent_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("agents.id"))
    workspace_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("workspaces.id"), server_default=text(f"'{DEFAULT_WORKSPACE}'")
    )
    """Its agent's, by which pages of operations are read: whoever opens one says it. The default is for processes of
    the release before, which know no other workspace, until they are restarted."""
    kind: Mapped[OperationKind] = mapped_column(status_column(OperationKind, "kind"))
    phone_number: Mapped[str]
    target_agent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("agents.id"))
    """The agent that a move hands the number to; null for every other kind."""
    bulk_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("bulks.id"))
    """The bulk that it was opened for: operations of single requests go first."""
    former_ids: Mapped[dict[str, Any] | None]
    """Step -> the id that its rollback gives back to the agent, where the number goes to another Twilio trunk."""
    former_trunk_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("trunks.id"))
    """The shared trunk of those ids, if it was one."""
    wanted: Mapped[dict[str, Any] | None]
    """What the agent is to be once an update or an adoption has succeeded (`app.saga.machine.open_operation`)."""
    former_options: Mapped[dict[str, Any] | None]
    """What an update or a move goes back by while it is open (`app.saga.state.OperationRow.former_options`)."""
    keeps_path: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """Whether a deprovisioning leaves an adopted path as it was found, and only takes our marks off."""
    takeover: Mapped[bool] = mapped_column(default=False)
    status: Mapped[OperationStatus] = mapped_column(
        status_column(OperationStatus, "status"), default=OperationStatus.QUEUED
    )
    epoch: Mapped[int] = mapped_column(default=0)
    """Changes of direction so far: a message of an older epoch is stale."""
    wake_at: Mapped[datetime | None]
    """When the sweep looks again; null once final."""
    idle_kicks: Mapped[int] = mapped_column(default=0)
    """How often the sweep published it since it last moved."""
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    request_id: Mapped[str | None]
    requested_by: Mapped[str | None]
    traceparent: Mapped[str | None]
    """The request's span (W3C Trace Context), the parent of every task of the operation in its trace."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    """When the first step was claimed; the budget for retries runs from here."""
    cancelled_at: Mapped[datetime | None]
    """When a client asked for the opposite: the operation then ends cancelled, not failed."""
    finished_at: Mapped[datetime | None]

    agent: Mapped[Agent] = relationship(lazy="raise", foreign_keys=[agent_id])
    target: Mapped[Agent | None] = relationship(lazy="select", foreign_keys=[target_agent_id])
    steps: Mapped[list["OperationStep"]] = relationship(
        lazy="raise", order_by="OperationStep.position", back_populates="operation"
    )

    @property
    def direction(self) -> Direction:
        """Which way it goes now."""
        return direction_of(self.kind, self.status)


class OperationStep(Base):
    """One resource of one operation, and who may act on it now."""

    __tablename__ = "operation_steps"

    operation_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("operations.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    state: Mapped[StepState] = mapped_column(status_column(StepState, "state"), default=StepState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    """Claims in the present direction."""
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    """Nobody claims the step before this moment: a worker holds it, or it rests between two tries."""
    intent: Mapped[dict[str, Any] | None]
    """Written before a provider call, cleared when its outcome is known: while it is set, read before writing."""
    unsettled_until: Mapped[datetime | None]
    """Until then a request without a response may take effect. Kept when it is past, since no read proves for ever that
    nothing landed: an undo reads what this step makes, and not before this moment."""
    resource_id: Mapped[str | None]
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    operation: Mapped[Operation] = relationship(lazy="raise", back_populates="steps")


class TestCall(Owned, Base):
    """One call of ours to a number, as Twilio would place it, and what became of it."""

    __test__ = False  # pytest: the name is no test's
    __tablename__ = "test_calls"
    __table_args__ = (
        CheckConstraint("(status = 'finished') = (verdict IS NOT NULL)", name="finished_says_what"),
        Index("ix_test_calls_agent_page", "agent_id", "created_at", "id"),
        Index("ix_test_calls_open", "created_at", postgresql_where=text("status <> 'finished'")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    agent_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("agents.id"))
    workspace_id: Mapped[uuid.UUID] = workspace_column()
    phone_number: Mapped[str]
    caller: Mapped[str]
    """From what number it called."""
    is_monitor: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """Whether the agent's monitor placed it, not a person."""
    status: Mapped[CallStatus] = mapped_column(
        status_column(CallStatus, "status"), default=CallStatus.QUEUED, server_default=CallStatus.QUEUED
    )
    verdict: Mapped[CallVerdict | None] = mapped_column(status_column(CallVerdict, "verdict"))
    hop: Mapped[str | None]
    """The step of the path, or `agent`, where it ended; null where it was answered."""
    sip_status: Mapped[int | None]
    """The last SIP status; null where nothing answered."""
    detail: Mapped[str | None]
    """One sentence for a person: what happened, and what to do."""
    ring_s: Mapped[float | None]
    """Seconds from the INVITE to the first ringing."""
    answer_s: Mapped[float | None]
    """Seconds from the INVITE to the answer."""
    room: Mapped[dict[str, Any] | None]
    """What LiveKit said of the room: name, participant, trunk and rule ids, agents."""
    requested_by: Mapped[str | None]
    key_id: Mapped[uuid.UUID | None]
    """The API key that asked; no foreign key, as in every trail."""
    request_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    """Nobody else places it before this moment."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Resource(Base):
    """The ledger: every provider resource of ours that anybody learned of, lease or no lease."""

    __tablename__ = "resources"
    __table_args__ = (Index("ix_resources_live", "agent_id", postgresql_where=text("deleted_at IS NULL")),)

    provider: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    """The name of the step that makes it."""
    external_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("agents.id"))
    operation_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("operations.id"))
    parent_id: Mapped[str | None]
    """The resource that it lives under, where its id alone does not reach it: an origination URL's trunk."""
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]


class Event(Base):
    """One thing that happened, written in the transaction that made it so; never changed, never deleted."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_operation", "operation_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    operation_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("operations.id"))
    step: Mapped[str | None]
    event: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Audit(Owned, Base):
    """One comparison of all rows with both providers: requested, run by one worker, kept as a report."""

    __tablename__ = "audits"
    __table_args__ = (Index("ix_audits_created_at", "created_at"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("workspaces.id"), default=seen_workspace)
    """Whose agents it compares; null: everybody's."""
    status: Mapped[AuditStatus] = mapped_column(status_column(AuditStatus, "status"), default=AuditStatus.QUEUED)
    fix: Mapped[bool] = mapped_column(default=False)
    requested_by: Mapped[str | None]
    key_id: Mapped[uuid.UUID | None]
    """The API key that asked; no foreign key, as in every trail."""
    lease_until: Mapped[datetime | None]
    """Nobody else runs it before this moment, nor is it published again."""
    agents_checked: Mapped[int] = mapped_column(default=0)
    findings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    error_detail: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


BULK_IS_OPEN = "status IN (" + ", ".join(f"'{status}'" for status in sorted(OPEN_BULKS)) + ")"
"""SQL for a bulk that a sweeper must process."""

IS_LIVE = "status IN ('pending', 'running')"
"""SQL for an item that waits or runs."""

IS_ALONE = f"{IS_LIVE} AND kind IS NULL"
"""SQL for such an item of a bulk of one kind: two of them may not want the same number or agent."""

COUNTS = tuple(status.value for status in ItemStatus)
"""The columns that count a bulk's items, named after the statuses."""


class Bulk(Owned, Base):
    """Many numbers asked for in one request; the counts of its items as last read."""

    __tablename__ = "bulks"
    __table_args__ = (
        CheckConstraint(" + ".join(COUNTS) + " = total", name="counts"),
        CheckConstraint("total > 0", name="total"),
        Index("ix_bulks_open", "created_at", "id", postgresql_where=text(BULK_IS_OPEN)),
        Index("ix_bulks_page", "created_at", "id"),
        Index("ix_bulks_workspace_page", "workspace_id", "created_at", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("workspaces.id"))
    """Its agents'; null: they are of several workspaces, and only operators see it."""
    status: Mapped[BulkStatus] = mapped_column(status_column(BulkStatus, "status"), default=BulkStatus.QUEUED)
    kind: Mapped[BulkKind] = mapped_column(
        status_column(BulkKind, "kind"), default=BulkKind.PROVISION, server_default=BulkKind.PROVISION
    )
    created_by: Mapped[str | None]
    key_id: Mapped[uuid.UUID | None]
    """The API key that asked; no foreign key, as in every trail."""
    request_id: Mapped[str | None]
    total: Mapped[int]
    pending: Mapped[int] = mapped_column(default=0)
    running: Mapped[int] = mapped_column(default=0)
    succeeded: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    cancelled: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    """No other sweeper opens operations for it before this moment."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    """When its first operation was opened."""
    cancelled_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class BulkItem(Base):
    """One number of a bulk, the agent it is for, and the operation that connects it."""

    __tablename__ = "bulk_items"
    __table_args__ = (
        CheckConstraint(
            "status <> 'pending' OR (agent_id IS NOT NULL AND phone_number IS NOT NULL AND operation_id IS NULL)",
            name="pending_can_begin",
        ),
        CheckConstraint(
            "status NOT IN ('running', 'succeeded') OR operation_id IS NOT NULL"
            " OR (status = 'succeeded' AND kind IS NOT NULL)",
            name="has_operation",
        ),
        CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name="failed_says_why"),
        Index("ix_bulk_items_status", "bulk_id", "status", "position"),
        Index("uq_bulk_items_live_number", "bulk_id", "phone_number", unique=True, postgresql_where=text(IS_ALONE)),
        Index("uq_bulk_items_live_agent", "bulk_id", "agent_id", unique=True, postgresql_where=text(IS_ALONE)),
        Index("uq_bulk_items_operation_id", "operation_id", unique=True),
        Index("ix_bulk_items_wanted", "agent_id", postgresql_where=text("wanted IS NOT NULL")),
    )

    bulk_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("bulks.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    """From 1, in the order of the request."""
    agent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("agents.id"))
    phone_number: Mapped[str | None]
    """As it was sent, even where it is no number."""
    takeover: Mapped[bool] = mapped_column(default=False)
    status: Mapped[ItemStatus] = mapped_column(status_column(ItemStatus, "status"))
    operation_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("operations.id"))
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    kind: Mapped[ItemKind | None] = mapped_column(status_column(ItemKind, "kind"))
    """What it does, in a bulk of mixed kinds; null: what its bulk does."""
    target_agent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("agents.id"))
    """The agent that a move hands the number to."""
    wanted: Mapped[dict[str, Any] | None]
    """What an update makes of the agent, by field of the agent's row."""
    waits_for: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    """Positions of the items that must have succeeded before it starts."""

    def kind_in(self, bulk: BulkKind) -> ItemKind:
        """Return what it does, as an item of such a bulk."""
        return self.kind or ItemKind(bulk.value)
