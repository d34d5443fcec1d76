"""Ids that clients give to agents, each once in a workspace."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("agents", sa.Column("external_id", sa.Text(), nullable=True))
    op.create_index(
        "uq_agents_external_id",
        "agents",
        ["workspace_id", "external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL AND deleted_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("uq_agents_external_id", table_name="agents")
    op.drop_column("agents", "external_id")
