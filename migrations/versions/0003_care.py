"""Care for paths that stand: health of agents, repair and move as operations, audits."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "running",
                "done",
                "failed",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("fix", sa.Boolean(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agents_checked", sa.Integer(), nullable=False),
        sa.Column("findings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audits")),
    )
    op.create_index("ix_audits_created_at", "audits", ["created_at"], unique=False)
    op.add_column(
        "agents",
        sa.Column(
            "health_state",
            sa.Enum(
                "IN_SYNC",
                "DRIFTED",
                "UNKNOWN",
                name="health_state",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            server_default="UNKNOWN",
            nullable=False,
        ),
    )
    op.add_column("agents", sa.Column("health_checked_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "agents",
        sa.Column(
            "health_findings", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        ),
    )
    op.add_column("operations", sa.Column("target_agent_id", sa.Uuid(), nullable=True))
    op.create_index(
        "uq_operations_open_target",
        "operations",
        ["target_agent_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('needs_attention', 'queued', 'rolling_back', 'running')"),
    )
    op.create_index(
        "ix_operations_target_page",
        "operations",
        ["target_agent_id", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("target_agent_id IS NOT NULL"),
    )
    op.drop_constraint(op.f("ck_operations_kind"), "operations", type_="check")
    op.create_check_constraint(
        op.f("ck_operations_kind"), "operations", "kind IN ('provision', 'deprovision', 'repair', 'move')"
    )
    op.create_foreign_key(
        op.f("fk_operations_target_agent_id_agents"), "operations", "agents", ["target_agent_id"], ["id"]
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_operations_kind"), "operations", type_="check")
    op.create_check_constraint(op.f("ck_operations_kind"), "operations", "kind IN ('provision', 'deprovision')")
    op.drop_constraint(op.f("fk_operations_target_agent_id_agents"), "operations", type_="foreignkey")
    op.drop_index(
        "ix_operations_target_page",
        table_name="operations",
        postgresql_where=sa.text("target_agent_id IS NOT NULL"),
    )
    op.drop_index(
        "uq_operations_open_target",
        table_name="operations",
        postgresql_where=sa.text("status IN ('needs_attention', 'queued', 'rolling_back', 'running')"),
    )
    op.drop_column("operations", "target_agent_id")
    op.drop_column("agents", "health_findings")
    op.drop_column("agents", "health_checked_at")
    op.drop_column("agents", "health_state")
    op.drop_index("ix_audits_created_at", table_name="audits")
    op.drop_table("audits")
