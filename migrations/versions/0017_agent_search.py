"""What agents are looked up by, with neither extension nor trigger, and the orders of their list.

Whoever owns a database on a managed server may often create functions and no extension: hence no pg_trgm, no unaccent.
Every function is IMMUTABLE, as an index needs it, and calls none of the others, which a restored dump would not find.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# Lower case, without accents, ASCII punctuation as single blanks, and one blank before each word. Letters that Unicode
# does not take apart, such as the o with a stroke, are named.
_FOLD = r"""
CREATE FUNCTION search_fold(given text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ' ' || btrim(regexp_replace(
    replace(replace(replace(
        translate(lower(regexp_replace(normalize(given, NFKD), '[\u0300-\u036f]', '', 'g')), 'øłđðħŧı', 'olddhti'),
        'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'),
    '[[:space:]!-/:-@\[-`{-~]+', ' ', 'g'))
"""

# Of a folded text every three characters in a row within a word, fewer at its end, and the blank before it with the
# first two. PL/pgSQL takes a third of the time of an SQL query. With the default cost the planner would rather compute
# the keys of every row than read the index.
_KEYS = """
CREATE FUNCTION search_keys(folded text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 5000 AS $$
DECLARE
    keys text[] := '{}';
BEGIN
    FOR i IN 1 .. length(folded) LOOP
        keys := keys || (substr(folded, i, 1) || split_part(substr(folded, i + 1, 2), ' ', 1));
    END LOOP;
    RETURN array_to_tsvector(keys);
END
$$
"""

_WORDS = """
CREATE FUNCTION agent_words(name text, external_id text, number text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN name || ' ' || coalesce(external_id, '') || ' ' || coalesce(number, '')
"""


def upgrade() -> None:
    for function in (_FOLD, _KEYS, _WORDS):
        op.execute(function)
    op.create_index(
        "ix_agents_search",
        "agents",
        [sa.text("search_keys(search_fold(agent_words(name, external_id, twilio_phone_number)))")],
        postgresql_using="gin",
    )
    # An agent gives up the number that it failed with: only the operation still has it.
    op.create_index(
        "ix_operations_failed_search",
        "operations",
        [sa.text("search_keys(search_fold(phone_number))")],
        postgresql_using="gin",
        postgresql_where=sa.text("status = 'failed'"),
    )
    # Of adopted objects that others use too, no ledger knows.
    for column in ("livekit_inbound_trunk_id", "livekit_dispatch_rule_id"):
        op.create_index(
            f"ix_agents_adopted_{column.removeprefix('livekit_').removesuffix('_id')}",
            "agents",
            [column],
            postgresql_where=sa.text("adopted IS NOT NULL"),
        )
    live = sa.text("deleted_at IS NULL")
    op.create_index("ix_agents_by_name", "agents", [sa.text("search_fold(name)"), "id"], postgresql_where=live)
    op.create_index(
        "ix_agents_by_number",
        "agents",
        [sa.text("coalesce(twilio_phone_number, 'none')"), "id"],
        postgresql_where=live,
    )
    op.create_index("ix_agents_by_change", "agents", ["updated_at", "id"], postgresql_where=live)
    op.drop_index("ix_agents_number_ending", table_name="agents")
    op.drop_index("ix_agents_name_words", table_name="agents")


def downgrade() -> None:
    op.create_index("ix_agents_name_words", "agents", [sa.text("to_tsvector('simple', name)")], postgresql_using="gin")
    op.create_index(
        "ix_agents_number_ending",
        "agents",
        [sa.text("reverse(twilio_phone_number) text_pattern_ops")],
        postgresql_where=sa.text("twilio_phone_number IS NOT NULL"),
    )
    for name in ("by_change", "by_number", "by_name", "adopted_dispatch_rule", "adopted_inbound_trunk", "search"):
        op.drop_index(f"ix_agents_{name}", table_name="agents")
    op.drop_index("ix_operations_failed_search", table_name="operations")
    for function in ("agent_words(text, text, text)", "search_keys(text)", "search_fold(text)"):
        op.execute(f"DROP FUNCTION {function}")
