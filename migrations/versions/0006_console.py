"""What the console looks agents up by: drifted ones, words of a name, the last digits of a number."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Only the few that drifted: an audit that finds all in sync writes nothing here.
    op.create_index(
        "ix_agents_drifted_page", "agents", ["created_at", "id"], postgresql_where=sa.text("health_state = 'DRIFTED'")
    )
    op.create_index("ix_agents_name_words", "agents", [sa.text("to_tsvector('simple', name)")], postgresql_using="gin")
    op.create_index(
        "ix_agents_number_ending",
        "agents",
        [sa.text("reverse(twilio_phone_number) text_pattern_ops")],
        postgresql_where=sa.text("twilio_phone_number IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_agents_number_ending", table_name="agents")
    op.drop_index("ix_agents_name_words", table_name="agents")
    op.drop_index("ix_agents_drifted_page", table_name="agents")
