"""Steps remember until when a request that got no answer may still take effect."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("operation_steps", sa.Column("unsettled_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("operation_steps", "unsettled_until")
