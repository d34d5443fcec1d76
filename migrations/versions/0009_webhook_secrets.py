"""Old secrets of webhooks that a second rotation within a day would have lost: each is valid until its own end."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The newest old secret stays where the old code looks for it, in webhook_endpoints.previous_secret.
    op.create_table(
        "webhook_old_secrets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name=op.f("fk_webhook_old_secrets_endpoint_id_webhook_endpoints"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_old_secrets")),
    )
    op.create_index(op.f("ix_webhook_old_secrets_endpoint_id"), "webhook_old_secrets", ["endpoint_id"])


def downgrade() -> None:
    op.drop_table("webhook_old_secrets")
