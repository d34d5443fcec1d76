"""Twilio trunks that numbers share, who has a place on which, and bulks of more than provisionings."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_KINDS_BEFORE = "'provision', 'deprovision', 'repair', 'move'"
_KINDS = f"{_KINDS_BEFORE}, 'rehome'"


def upgrade() -> None:
    op.create_table(
        "trunks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("profile", postgresql.JSONB(), nullable=False),
        sa.Column("profile_hash", sa.Text(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("twilio_trunk_sid", sa.Text(), nullable=True),
        sa.Column("twilio_origination_url_sid", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("intent", sa.Text(), nullable=True),
        sa.Column("unsettled_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("emptied_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_full", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("health_state", sa.String(length=32), server_default="UNKNOWN", nullable=False),
        sa.Column("health_checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("health_findings", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('CREATING', 'ACTIVE', 'RETIRING', 'GONE')", name=op.f("ck_trunks_state")),
        sa.CheckConstraint("health_state IN ('IN_SYNC', 'DRIFTED', 'UNKNOWN')", name=op.f("ck_trunks_health_state")),
        sa.CheckConstraint(
            "state <> 'ACTIVE' OR (twilio_trunk_sid IS NOT NULL AND twilio_origination_url_sid IS NOT NULL)",
            name=op.f("ck_trunks_active_is_made"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trunks")),
    )
    op.create_index(
        "uq_trunks_shard", "trunks", ["profile_hash", "shard"], unique=True, postgresql_where=sa.text("state <> 'GONE'")
    )
    op.create_index("uq_trunks_twilio_trunk_sid", "trunks", ["twilio_trunk_sid"], unique=True)
    # Agents of before keep the trunk that is theirs: no place, and nothing to fill in.
    op.add_column("agents", sa.Column("trunk_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_agents_trunk_id_trunks"), "agents", "trunks", ["trunk_id"], ["id"])
    op.create_index(
        op.f("ix_agents_trunk_id"), "agents", ["trunk_id"], postgresql_where=sa.text("trunk_id IS NOT NULL")
    )
    op.create_index(
        op.f("ix_agents_own_trunk"),
        "agents",
        ["twilio_trunk_sid"],
        postgresql_where=sa.text("trunk_id IS NULL AND twilio_trunk_sid IS NOT NULL"),
    )
    op.add_column("agents", sa.Column("trunk_mode", sa.String(length=32), server_default="shared", nullable=False))
    op.create_check_constraint(op.f("ck_agents_trunk_mode"), "agents", "trunk_mode IN ('shared', 'dedicated')")
    op.add_column("operations", sa.Column("former_ids", postgresql.JSONB(), nullable=True))
    op.drop_constraint(op.f("ck_operations_kind"), "operations", type_="check")
    op.create_check_constraint(op.f("ck_operations_kind"), "operations", f"kind IN ({_KINDS})")
    op.add_column("bulks", sa.Column("kind", sa.String(length=32), server_default="provision", nullable=False))
    op.create_check_constraint(op.f("ck_bulks_kind"), "bulks", "kind IN ('provision', 'repair', 'rehome')")


def downgrade() -> None:
    # The code of before would take a shared trunk for the agent's own, and delete its URL under everybody's numbers.
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM agents WHERE trunk_id IS NOT NULL) THEN
                RAISE EXCEPTION 'numbers are on shared trunks: see "Upgrading to shared trunks" in docs/operations.md';
            END IF;
        END $$
    """)
    # What that code has no word for: a consolidation goes, and what it did to each number stays as a repair.
    op.execute("UPDATE operations SET kind = 'repair' WHERE kind = 'rehome'")
    op.execute("""
        UPDATE operations SET bulk_id = NULL WHERE bulk_id IN (SELECT id FROM bulks WHERE kind <> 'provision')
    """)
    op.execute("DELETE FROM bulk_items WHERE bulk_id IN (SELECT id FROM bulks WHERE kind <> 'provision')")
    op.execute("DELETE FROM bulks WHERE kind <> 'provision'")
    op.drop_constraint(op.f("ck_bulks_kind"), "bulks", type_="check")
    op.drop_column("bulks", "kind")
    op.drop_constraint(op.f("ck_operations_kind"), "operations", type_="check")
    op.create_check_constraint(op.f("ck_operations_kind"), "operations", f"kind IN ({_KINDS_BEFORE})")
    op.drop_column("operations", "former_ids")
    op.drop_constraint(op.f("ck_agents_trunk_mode"), "agents", type_="check")
    op.drop_column("agents", "trunk_mode")
    op.drop_index(op.f("ix_agents_own_trunk"), table_name="agents")
    op.drop_index(op.f("ix_agents_trunk_id"), table_name="agents")
    op.drop_constraint(op.f("fk_agents_trunk_id_trunks"), "agents", type_="foreignkey")
    op.drop_column("agents", "trunk_id")
    op.drop_table("trunks")
