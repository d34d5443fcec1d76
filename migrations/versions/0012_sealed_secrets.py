"""Seals the secrets of webhooks, where CREDENTIAL_KEYS is set; `trunkline credentials rewrap` does it later."""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import context, op

from app.sealing import Field, Sealer

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SECRETS = (("webhook_endpoints", "secret"), ("webhook_endpoints", "previous_secret"), ("webhook_old_secrets", "secret"))


def upgrade() -> None:
    _rewrite(_sealer().rewrapped)


def downgrade() -> None:
    _rewrite(_sealer().open)


def _sealer() -> Sealer:
    return Sealer(context.config.attributes.get("sealing_keys", ()))


def _rewrite(change: Callable[[str, Field], str]) -> None:
    connection = op.get_bind()
    for table, column in SECRETS:
        rows = sa.table(table, sa.column("id"), sa.column(column))
        for row_id, stored in connection.execute(sa.select(rows.c.id, rows.c[column])).all():
            if stored is not None:
                wanted = change(stored, Field(table, column, row_id))
                if wanted != stored:
                    connection.execute(sa.update(rows).where(rows.c.id == row_id).values({column: wanted}))
