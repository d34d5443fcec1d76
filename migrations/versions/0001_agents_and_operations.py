"""Agents, their operations and steps, the ledger of resources and the event trail."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("livekit_agent_name", sa.Text(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "phone_provisioning_status",
            sa.Enum(
                "NOT_PROVISIONED",
                "PENDING",
                "PROVISIONING",
                "PROVISIONED",
                "ROLLING_BACK",
                "FAILED",
                "DEPROVISIONING",
                name="phone_provisioning_status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("twilio_phone_number", sa.Text(), nullable=True),
        sa.Column("twilio_phone_number_sid", sa.Text(), nullable=True),
        sa.Column("twilio_trunk_sid", sa.Text(), nullable=True),
        sa.Column("twilio_origination_url_sid", sa.Text(), nullable=True),
        sa.Column("livekit_inbound_trunk_id", sa.Text(), nullable=True),
        sa.Column("livekit_dispatch_rule_id", sa.Text(), nullable=True),
        sa.Column("previous_routing", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
    )
    op.create_index(
        "ix_agents_page", "agents", ["created_at", "id"], unique=False, postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.create_index("ix_agents_status_page", "agents", ["phone_provisioning_status", "created_at", "id"], unique=False)
    op.create_index(
        "uq_agents_twilio_phone_number",
        "agents",
        ["twilio_phone_number"],
        unique=True,
        postgresql_where=sa.text("twilio_phone_number IS NOT NULL"),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("provision", "deprovision", name="kind", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("phone_number", sa.Text(), nullable=False),
        sa.Column("takeover", sa.Boolean(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "running",
                "rolling_back",
                "needs_attention",
                "succeeded",
                "failed",
                "cancelled",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("wake_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idle_kicks", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_operations_agent_id_agents")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index("ix_operations_agent_page", "operations", ["agent_id", "created_at", "id"], unique=False)
    op.create_index("ix_operations_page", "operations", ["created_at", "id"], unique=False)
    op.create_index("ix_operations_status_page", "operations", ["status", "created_at", "id"], unique=False)
    op.create_index(
        "ix_operations_wake_at",
        "operations",
        ["wake_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('needs_attention', 'queued', 'rolling_back', 'running')"),
    )
    op.create_index(
        "uq_operations_open_agent",
        "operations",
        ["agent_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('needs_attention', 'queued', 'rolling_back', 'running')"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Text(), nullable=True),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["operation_id"], ["operations.id"], name=op.f("fk_events_operation_id_operations")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_operation", "events", ["operation_id", "id"], unique=False)
    op.create_table(
        "operation_steps",
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "PENDING",
                "RUNNING",
                "DONE",
                "FAILED",
                "UNDOING",
                "UNDONE",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("intent", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("resource_id", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_operation_steps_operation_id_operations")
        ),
        sa.PrimaryKeyConstraint("operation_id", "name", name=op.f("pk_operation_steps")),
    )
    op.create_table(
        "resources",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Uuid(), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_resources_agent_id_agents")),
        sa.ForeignKeyConstraint(["operation_id"], ["operations.id"], name=op.f("fk_resources_operation_id_operations")),
        sa.PrimaryKeyConstraint("provider", "kind", "external_id", name=op.f("pk_resources")),
    )
    op.create_index(
        "ix_resources_live", "resources", ["agent_id"], unique=False, postgresql_where=sa.text("deleted_at IS NULL")
    )


def downgrade() -> None:
    op.drop_index("ix_resources_live", table_name="resources", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("resources")
    op.drop_table("operation_steps")
    op.drop_index("ix_events_operation", table_name="events")
    op.drop_table("events")
    op.drop_index(
        "uq_operations_open_agent",
        table_name="operations",
        postgresql_where=sa.text("status IN ('needs_attention', 'queued', 'rolling_back', 'running')"),
    )
    op.drop_index(
        "ix_operations_wake_at",
        table_name="operations",
        postgresql_where=sa.text("status IN ('needs_attention', 'queued', 'rolling_back', 'running')"),
    )
    op.drop_index("ix_operations_status_page", table_name="operations")
    op.drop_index("ix_operations_page", table_name="operations")
    op.drop_index("ix_operations_agent_page", table_name="operations")
    op.drop_table("operations")
    op.drop_index(
        "uq_agents_twilio_phone_number",
        table_name="agents",
        postgresql_where=sa.text("twilio_phone_number IS NOT NULL"),
    )
    op.drop_index("ix_agents_status_page", table_name="agents")
    op.drop_index("ix_agents_page", table_name="agents", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("agents")
