"""Bulks whose items are of several kinds, and wait for each other."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_BULKS_BEFORE = "'provision', 'repair', 'rehome', 'adopt'"
_ITEMS = f"{_BULKS_BEFORE}, 'deprovision', 'move', 'update', 'delete'"
_HAS_OPERATION = "status NOT IN ('running', 'succeeded') OR operation_id IS NOT NULL"
_LIVE = "status IN ('pending', 'running')"
_UNIQUE = (("uq_bulk_items_live_number", "phone_number"), ("uq_bulk_items_live_agent", "agent_id"))


def upgrade() -> None:
    op.drop_constraint(op.f("ck_bulks_kind"), "bulks", type_="check")
    op.create_check_constraint(op.f("ck_bulks_kind"), "bulks", f"kind IN ({_BULKS_BEFORE}, 'mixed')")
    op.add_column("bulk_items", sa.Column("kind", sa.String(length=32), nullable=True))
    op.create_check_constraint(op.f("ck_bulk_items_kind"), "bulk_items", f"kind IN ({_ITEMS})")
    op.add_column("bulk_items", sa.Column("target_agent_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_bulk_items_target_agent_id_agents"), "bulk_items", "agents", ["target_agent_id"], ["id"]
    )
    op.add_column("bulk_items", sa.Column("wanted", postgresql.JSONB(), nullable=True))
    op.add_column("bulk_items", sa.Column("waits_for", postgresql.ARRAY(sa.Integer()), nullable=True))
    op.create_index("ix_bulk_items_wanted", "bulk_items", ["agent_id"], postgresql_where=sa.text("wanted IS NOT NULL"))
    op.drop_constraint(op.f("ck_bulk_items_has_operation"), "bulk_items", type_="check")
    op.create_check_constraint(
        op.f("ck_bulk_items_has_operation"),
        "bulk_items",
        f"{_HAS_OPERATION} OR (status = 'succeeded' AND kind IS NOT NULL)",
    )
    _unique_where(f"{_LIVE} AND kind IS NULL")


def downgrade() -> None:
    # What that code has no word for goes; its operations stay.
    op.execute("UPDATE operations SET bulk_id = NULL WHERE bulk_id IN (SELECT id FROM bulks WHERE kind = 'mixed')")
    op.execute("DELETE FROM bulk_items WHERE bulk_id IN (SELECT id FROM bulks WHERE kind = 'mixed')")
    op.execute("DELETE FROM bulks WHERE kind = 'mixed'")
    _unique_where(_LIVE)
    op.drop_constraint(op.f("ck_bulk_items_has_operation"), "bulk_items", type_="check")
    op.create_check_constraint(op.f("ck_bulk_items_has_operation"), "bulk_items", _HAS_OPERATION)
    op.drop_index("ix_bulk_items_wanted", table_name="bulk_items")
    op.drop_column("bulk_items", "waits_for")
    op.drop_column("bulk_items", "wanted")
    op.drop_constraint(op.f("fk_bulk_items_target_agent_id_agents"), "bulk_items", type_="foreignkey")
    op.drop_column("bulk_items", "target_agent_id")
    op.drop_constraint(op.f("ck_bulk_items_kind"), "bulk_items", type_="check")
    op.drop_column("bulk_items", "kind")
    op.drop_constraint(op.f("ck_bulks_kind"), "bulks", type_="check")
    op.create_check_constraint(op.f("ck_bulks_kind"), "bulks", f"kind IN ({_BULKS_BEFORE})")


def _unique_where(condition: str) -> None:
    for name, column in _UNIQUE:
        op.drop_index(name, table_name="bulk_items")
        op.create_index(name, "bulk_items", ["bulk_id", column], unique=True, postgresql_where=sa.text(condition))
