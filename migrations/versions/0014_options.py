"""Options and versions of agents, paths that were adopted, operations that change them, and test calls."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.domain.workspaces import DEFAULT_WORKSPACE

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_KINDS_BEFORE = "'provision', 'deprovision', 'repair', 'move', 'rehome'"
_KINDS = f"{_KINDS_BEFORE}, 'update', 'adopt'"
_BULKS_BEFORE = "'provision', 'repair', 'rehome'"
_BULKS = f"{_BULKS_BEFORE}, 'adopt'"


def upgrade() -> None:
    op.add_column("agents", sa.Column("options", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("agents", sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("agents", sa.Column("adopted", postgresql.JSONB(), nullable=True))
    op.add_column("agents", sa.Column("reachability", sa.String(length=32), server_default="UNKNOWN", nullable=False))
    op.create_check_constraint(
        op.f("ck_agents_reachability"), "agents", "reachability IN ('UNKNOWN', 'REACHABLE', 'UNREACHABLE')"
    )
    op.add_column("agents", sa.Column("monitor_due_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_agents_unreachable_page",
        "agents",
        ["created_at", "id"],
        postgresql_where=sa.text("reachability = 'UNREACHABLE'"),
    )
    op.create_index(
        "ix_agents_monitored",
        "agents",
        ["monitor_due_at"],
        postgresql_where=sa.text("options -> 'monitor' IS NOT NULL"),
    )
    op.add_column("operations", sa.Column("wanted", postgresql.JSONB(), nullable=True))
    op.add_column("operations", sa.Column("former_options", postgresql.JSONB(), nullable=True))
    op.add_column("operations", sa.Column("former_trunk_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_operations_former_trunk_id_trunks"), "operations", "trunks", ["former_trunk_id"], ["id"]
    )
    op.add_column("operations", sa.Column("keeps_path", sa.Boolean(), server_default=sa.false(), nullable=False))
    for table, kinds in (("operations", _KINDS), ("bulks", _BULKS)):
        op.drop_constraint(op.f(f"ck_{table}_kind"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_kind"), table, f"kind IN ({kinds})")
    op.create_table(
        "test_calls",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), server_default=sa.text(f"'{DEFAULT_WORKSPACE}'"), nullable=False),
        sa.Column("phone_number", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("is_monitor", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("status", sa.String(length=32), server_default="queued", nullable=False),
        sa.Column("verdict", sa.String(length=32), nullable=True),
        sa.Column("hop", sa.Text(), nullable=True),
        sa.Column("sip_status", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("ring_s", sa.Float(), nullable=True),
        sa.Column("answer_s", sa.Float(), nullable=True),
        sa.Column("room", postgresql.JSONB(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('queued', 'running', 'finished')", name=op.f("ck_test_calls_status")),
        sa.CheckConstraint(
            "verdict IN ('ANSWERED', 'NO_AGENT', 'NO_ROUTE', 'BLOCKED', 'FAILED')", name=op.f("ck_test_calls_verdict")
        ),
        sa.CheckConstraint(
            "(status = 'finished') = (verdict IS NOT NULL)", name=op.f("ck_test_calls_finished_says_what")
        ),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_test_calls_agent_id_agents")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_test_calls_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_test_calls")),
    )
    op.create_index("ix_test_calls_agent_page", "test_calls", ["agent_id", "created_at", "id"])
    op.create_index(
        "ix_test_calls_open", "test_calls", ["created_at"], postgresql_where=sa.text("status <> 'finished'")
    )


def downgrade() -> None:
    # The code of before takes an adopted path for one that it made, and would delete what is somebody else's too.
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM agents WHERE adopted IS NOT NULL) THEN
                RAISE EXCEPTION 'numbers were adopted: deprovision them with path=keep first';
            END IF;
        END $$
    """)
    op.drop_table("test_calls")
    # What that code has no word for: what an update or an adoption did stays, as that of a repair.
    op.execute("UPDATE operations SET kind = 'repair' WHERE kind IN ('update', 'adopt')")
    op.execute("UPDATE operations SET bulk_id = NULL WHERE bulk_id IN (SELECT id FROM bulks WHERE kind = 'adopt')")
    op.execute("DELETE FROM bulk_items WHERE bulk_id IN (SELECT id FROM bulks WHERE kind = 'adopt')")
    op.execute("DELETE FROM bulks WHERE kind = 'adopt'")
    for table, kinds in (("bulks", _BULKS_BEFORE), ("operations", _KINDS_BEFORE)):
        op.drop_constraint(op.f(f"ck_{table}_kind"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_kind"), table, f"kind IN ({kinds})")
    op.drop_column("operations", "keeps_path")
    op.drop_constraint(op.f("fk_operations_former_trunk_id_trunks"), "operations", type_="foreignkey")
    op.drop_column("operations", "former_trunk_id")
    op.drop_column("operations", "former_options")
    op.drop_column("operations", "wanted")
    op.drop_index("ix_agents_monitored", table_name="agents")
    op.drop_index("ix_agents_unreachable_page", table_name="agents")
    op.drop_column("agents", "monitor_due_at")
    op.drop_constraint(op.f("ck_agents_reachability"), "agents", type_="check")
    op.drop_column("agents", "reachability")
    op.drop_column("agents", "adopted")
    op.drop_column("agents", "version")
    op.drop_column("agents", "options")
