"""Bulk provisioning: bulks, their items, and which operation was opened for which bulk."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BULK_STATUSES = ("queued", "running", "cancelling", "succeeded", "failed", "cancelled")
ITEM_STATUSES = ("pending", "running", "succeeded", "failed", "cancelled")


def _status(*values: str) -> sa.Enum:
    return sa.Enum(*values, name="status", native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    op.create_table(
        "bulks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("status", _status(*BULK_STATUSES), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ITEM_STATUSES),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(" + ".join(ITEM_STATUSES) + " = total", name=op.f("ck_bulks_counts")),
        sa.CheckConstraint("total > 0", name=op.f("ck_bulks_total")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bulks")),
    )
    is_open = sa.text("status IN ('cancelling', 'queued', 'running')")
    op.create_index("ix_bulks_open", "bulks", ["created_at", "id"], postgresql_where=is_open)
    op.create_index("ix_bulks_page", "bulks", ["created_at", "id"])
    op.create_table(
        "bulk_items",
        sa.Column("bulk_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("agent_id", sa.Uuid(), nullable=True),
        sa.Column("phone_number", sa.Text(), nullable=True),
        sa.Column("takeover", sa.Boolean(), nullable=False),
        sa.Column("status", _status(*ITEM_STATUSES), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status <> 'pending' OR (agent_id IS NOT NULL AND phone_number IS NOT NULL AND operation_id IS NULL)",
            name=op.f("ck_bulk_items_pending_can_begin"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('running', 'succeeded') OR operation_id IS NOT NULL",
            name=op.f("ck_bulk_items_has_operation"),
        ),
        sa.CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name=op.f("ck_bulk_items_failed_says_why")),
        sa.ForeignKeyConstraint(["bulk_id"], ["bulks.id"], name=op.f("fk_bulk_items_bulk_id_bulks")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_bulk_items_agent_id_agents")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_bulk_items_operation_id_operations")
        ),
        sa.PrimaryKeyConstraint("bulk_id", "position", name=op.f("pk_bulk_items")),
    )
    is_live = sa.text("status IN ('pending', 'running')")
    for name, column in (("number", "phone_number"), ("agent", "agent_id")):
        live = f"uq_bulk_items_live_{name}"
        op.create_index(live, "bulk_items", ["bulk_id", column], unique=True, postgresql_where=is_live)
    op.create_index("ix_bulk_items_status", "bulk_items", ["bulk_id", "status", "position"])
    op.create_index("uq_bulk_items_operation_id", "bulk_items", ["operation_id"], unique=True)
    op.add_column("operations", sa.Column("bulk_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_operations_bulk_id_bulks"), "operations", "bulks", ["bulk_id"], ["id"])
    op.create_index("ix_operations_bulk_id", "operations", ["bulk_id"], postgresql_where=sa.text("bulk_id IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_operations_bulk_id", table_name="operations", postgresql_where=sa.text("bulk_id IS NOT NULL"))
    op.drop_constraint(op.f("fk_operations_bulk_id_bulks"), "operations", type_="foreignkey")
    op.drop_column("operations", "bulk_id")
    op.drop_table("bulk_items")
    op.drop_table("bulks")
