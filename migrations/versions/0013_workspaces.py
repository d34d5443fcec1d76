"""Workspaces, carrier accounts and voice projects; what is there goes to the default ones."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.domain.workspaces import DEFAULT_SLUG, DEFAULT_WORKSPACE, ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

OWNED = ("agents", "bulks", "webhook_endpoints")
"""Tables whose rows belong to a workspace, beside operations."""


def upgrade() -> None:
    _add_credentials(
        "carrier_accounts",
        sa.Column("account_sid", sa.Text(), nullable=True),
        sa.Column("username", sa.Text(), nullable=True),
        sa.Column("base_url", sa.Text(), nullable=True),
        sa.Column("trunk_limit", sa.Integer(), server_default=sa.text("100"), nullable=False),
    )
    _add_credentials(
        "voice_projects",
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("username", sa.Text(), nullable=True),
        sa.Column("sip_uri", sa.Text(), nullable=True),
        sa.Column("allowed_addresses", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("room_presets", postgresql.JSONB(), nullable=True),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("carrier_account_id", sa.Uuid(), nullable=False),
        sa.Column("voice_project_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspaces")),
    )
    op.create_index(
        op.f("uq_workspaces_slug"), "workspaces", ["slug"], unique=True, postgresql_where=sa.text("deleted_at IS NULL")
    )
    for table, other, key in (
        ("workspaces", "carrier_accounts", "carrier_account_id"),
        ("workspaces", "voice_projects", "voice_project_id"),
        ("carrier_accounts", "workspaces", "workspace_id"),
        ("voice_projects", "workspaces", "workspace_id"),
    ):
        op.create_foreign_key(op.f(f"fk_{table}_{key}_{other}"), table, other, [key], ["id"])
    op.execute(
        sa.text(f"""
            INSERT INTO carrier_accounts (id, name, status) VALUES ('{ENVIRONMENT_ACCOUNT}', 'environment', 'pending');
            INSERT INTO voice_projects (id, name, status) VALUES ('{ENVIRONMENT_PROJECT}', 'environment', 'pending');
            INSERT INTO workspaces (id, slug, name, carrier_account_id, voice_project_id)
            VALUES ('{DEFAULT_WORKSPACE}', '{DEFAULT_SLUG}', 'Default',
                    '{ENVIRONMENT_ACCOUNT}', '{ENVIRONMENT_PROJECT}')
        """)  # noqa: S608  # our own constants
    )
    for table in OWNED:
        _add_key(table, "workspace_id", "workspaces", DEFAULT_WORKSPACE)
    _add_key("operations", "workspace_id", "workspaces", DEFAULT_WORKSPACE)
    # Null in one with agents of several workspaces.
    op.alter_column("bulks", "workspace_id", server_default=None, nullable=True)
    _add_key("agents", "carrier_account_id", "carrier_accounts", ENVIRONMENT_ACCOUNT)
    _add_key("agents", "voice_project_id", "voice_projects", ENVIRONMENT_PROJECT)
    _add_key("trunks", "carrier_account_id", "carrier_accounts", ENVIRONMENT_ACCOUNT)
    # Keys and audits of before are operators': they see all, as they did. So does the trail.
    _add_key("api_keys", "workspace_id", "workspaces", None)
    _add_key("audits", "workspace_id", "workspaces", None)
    op.add_column("activity", sa.Column("workspace_id", sa.Uuid(), nullable=True))
    op.create_index(
        op.f("ix_agents_workspace_page"),
        "agents",
        ["workspace_id", "created_at", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_agents_other_accounts"),
        "agents",
        ["carrier_account_id", "voice_project_id"],
        postgresql_where=sa.text(
            f"carrier_account_id <> '{ENVIRONMENT_ACCOUNT}' OR voice_project_id <> '{ENVIRONMENT_PROJECT}'"
        ),
    )
    op.create_index(op.f("ix_operations_workspace_page"), "operations", ["workspace_id", "created_at", "id"])
    op.create_index(op.f("ix_bulks_workspace_page"), "bulks", ["workspace_id", "created_at", "id"])
    op.create_index(
        op.f("ix_activity_workspace_page"),
        "activity",
        ["workspace_id", "id"],
        postgresql_where=sa.text("workspace_id IS NOT NULL"),
    )
    op.drop_index("uq_trunks_shard", table_name="trunks")
    op.create_index(
        "uq_trunks_shard",
        "trunks",
        ["carrier_account_id", "profile_hash", "shard"],
        unique=True,
        postgresql_where=sa.text("state <> 'GONE'"),
    )


def downgrade() -> None:
    # The code of before would show everybody's rows to every key, and look for all numbers in one account.
    op.execute(f"""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM workspaces WHERE id <> '{DEFAULT_WORKSPACE}')
               OR EXISTS (SELECT FROM carrier_accounts WHERE id <> '{ENVIRONMENT_ACCOUNT}')
               OR EXISTS (SELECT FROM voice_projects WHERE id <> '{ENVIRONMENT_PROJECT}')
               OR EXISTS (SELECT FROM api_keys WHERE workspace_id IS NOT NULL AND revoked_at IS NULL) THEN
                RAISE EXCEPTION 'there are other workspaces or accounts, or keys of one: delete them first';
            END IF;
        END $$
    """)  # noqa: S608  # our own constants
    op.drop_index("uq_trunks_shard", table_name="trunks")
    op.create_index(
        "uq_trunks_shard", "trunks", ["profile_hash", "shard"], unique=True, postgresql_where=sa.text("state <> 'GONE'")
    )
    op.drop_column("activity", "workspace_id")
    for table in ("audits", "api_keys", "operations", *OWNED):
        op.drop_column(table, "workspace_id")
    for table, column in (
        ("agents", "carrier_account_id"),
        ("agents", "voice_project_id"),
        ("trunks", "carrier_account_id"),
    ):
        op.drop_column(table, column)
    op.drop_constraint(op.f("fk_carrier_accounts_workspace_id_workspaces"), "carrier_accounts", type_="foreignkey")
    op.drop_constraint(op.f("fk_voice_projects_workspace_id_workspaces"), "voice_projects", type_="foreignkey")
    op.drop_table("workspaces")
    op.drop_table("voice_projects")
    op.drop_table("carrier_accounts")


def _add_credentials(table: str, *own: sa.Column[object]) -> None:
    op.create_table(
        table,
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sealed_secret", sa.Text(), nullable=True),
        sa.Column("old_username", sa.Text(), nullable=True),
        sa.Column("sealed_old_secret", sa.Text(), nullable=True),
        sa.Column("old_valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("rate", sa.Text(), server_default=sa.text("'auto'"), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=True),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checks", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        *own,
        sa.CheckConstraint("status IN ('pending', 'verified', 'invalid')", name=op.f(f"ck_{table}_status")),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
    )


def _add_key(table: str, column: str, other: str, default: object) -> None:
    """Add a foreign key to a table with rows: a default that is a constant rewrites none of them."""
    given = {"server_default": sa.text(f"'{default}'")} if default else {}
    op.add_column(table, sa.Column(column, sa.Uuid(), nullable=default is None, **given))
    op.create_foreign_key(op.f(f"fk_{table}_{column}_{other}"), table, other, [column], ["id"])
