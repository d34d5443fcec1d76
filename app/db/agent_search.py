"""Finds agents by what people type: the one rule for the console's search and for `q` of the API.

Found are agents
- whose name, external id and number together contain every word that was typed, inside of words too; case and accents
  do not matter, and punctuation separates words;
- whose number contains the digits that were typed, however they are written; `+` makes them its beginning. A failed
  agent's number is the one that it failed with;
- whose id, or the id of one of whose operations, begins with the 8 or more digits that were typed;
- whose Twilio trunk, origination URL, LiveKit trunk or dispatch rule has the id that was typed; of what was left at a
  provider too.

Folding and the index's keys are functions of the database (migration 0017), so that both sides are folded alike.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Label,
    SQLColumnExpression,
    Text,
    and_,
    func,
    literal,
    literal_column,
    or_,
    select,
    union,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY
from sqlalchemy.orm import Session

from app.db.models import Agent, Operation, Resource, Trunk
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    ORIGINATION_URL,
    STEP_BY_NAME,
    TRUNK,
    OperationStatus,
    PhoneStatus,
)

SEARCHED_ROWS = 2000
"""Agents that a search reads one by one, the first of the order: a word in every fortieth name fills a page."""

MAX_TERMS = 8
"""Words of a search that are looked at; more narrow nothing down that these have not."""

KEY_LENGTH = 3
"""Characters of a key of the index."""

_NUMBER = re.compile(r"\+?[0-9]{3,15}", re.ASCII)
_PUNCTUATION = str.maketrans("", "", " ().-/")
_ID_BEGINNING = re.compile(r"[0-9a-f]{8,32}", re.ASCII)

_PROVIDER_IDS: Mapping[re.Pattern[str], str] = {
    re.compile(r"TK[0-9a-f]{32}", re.ASCII): TRUNK,
    re.compile(r"OU[0-9a-f]{32}", re.ASCII): ORIGINATION_URL,
    re.compile(r"ST_[0-9A-Za-z]{1,64}", re.ASCII): INBOUND_TRUNK,
    re.compile(r"SDR_[0-9A-Za-z]{1,64}", re.ASCII): DISPATCH_RULE,
}
"""What a provider's id looks like -> the step that makes what has it."""

WORDS: ColumnElement[str] = func.agent_words(Agent.name, Agent.external_id, Agent.twilio_phone_number)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of an order."""

    column: SQLColumnExpression[Any]
    is_descending: bool = False

    def of(self, column: SQLColumnExpression[Any]) -> ColumnElement[Any]:
        """Return the ORDER BY of a column that has the key's values."""
        return column.desc() if self.is_descending else column.asc()


@dataclass(frozen=True, slots=True)
class Search:
    """What was typed, folded, and read by its shape."""

    readings: Sequence[Sequence[str]]
    """Terms that a text must contain, all of one reading: digits are read as a number and as words."""
    number: str = ""
    """The term of a number; empty: it is none."""
    ids: tuple[uuid.UUID, uuid.UUID] | None = None
    """The lowest and the highest id that begin so."""
    made_by: str | None = None
    """The step that makes what has the provider's id that was typed."""
    typed: str = ""


NEWEST = (Key(Agent.created_at, is_descending=True), Key(Agent.id, is_descending=True))
"""The order of every list that has no other."""


def find_agents(
    session: Session,
    typed: str,
    conditions: Sequence[ColumnElement[bool]],
    order: Sequence[Key],
    limit: int,
) -> Sequence[Agent]:
    """Return up to `limit` agents that match what was typed and the conditions, in this order.

    The first of the order are searched one by one, which is enough for a common word; then the index is. With one
    query for both the planner takes an unknown word for a common one and reads every agent: 12 s with a million. What
    is MATERIALIZED it cannot turn round either.
    """
    search, by = _read(session, typed), [key.of(key.column) for key in order]
    named: list[Label[Any]] = [key.column.label(f"key_{place}") for place, key in enumerate(order)]

    def page_of(rows: CTE, *which: ColumnElement[bool]) -> Sequence[Agent]:
        by_key = [key.of(rows.c[label.name]) for key, label in zip(order, named, strict=True)]
        ids = select(rows.c.id).where(*which).order_by(*by_key).limit(limit)
        return session.scalars(select(Agent).where(Agent.id.in_(ids)).order_by(*by).limit(limit)).all()

    if search.ids is None and search.made_by is None:
        columns = (Agent.id, Agent.phone_provisioning_status, WORDS.label("words"), *named)
        first = select(*columns).where(*conditions).order_by(*by).limit(SEARCHED_ROWS).cte()
        first = first.prefix_with("MATERIALIZED", dialect="postgresql")
        found = page_of(first, _contains(search, first))
        if len(found) == limit:
            return found
    parts = [select(Agent.id, *named).where(condition, *conditions) for condition in _parts(search)]
    return page_of(union(*parts).cte().prefix_with("MATERIALIZED", dialect="postgresql"))


def _read(session: Session, typed: str) -> Search:
    folded = session.scalars(select(func.search_fold(typed))).one().strip()
    digits, hexadecimal = typed.translate(_PUNCTUATION), typed.replace("-", "").lower()
    ids = None
    if _ID_BEGINNING.fullmatch(hexadecimal):
        ids = (uuid.UUID(hexadecimal.ljust(32, "0")), uuid.UUID(hexadecimal.ljust(32, "f")))
    made_by = next((step for shape, step in _PROVIDER_IDS.items() if shape.fullmatch(typed)), None)
    if not _NUMBER.fullmatch(digits):
        return Search([folded.split()[:MAX_TERMS]], ids=ids, made_by=made_by, typed=typed)
    start = " " if digits.startswith("+") else ""  # the blank before a word
    number = start + digits.removeprefix("+")
    return Search([[number], [start + folded]], number, ids, made_by, typed)


def _contains(search: Search, rows: CTE) -> ColumnElement[bool]:
    """Match rows one by one, without an index."""
    texts = _has_terms(rows.c.words, search.readings)
    if not search.number:
        return texts
    failed = select(Operation.id).where(Operation.agent_id == rows.c.id, *_failed_with(search.number))
    return or_(texts, and_(rows.c.phone_provisioning_status == PhoneStatus.FAILED, failed.exists()))


def _parts(search: Search) -> Sequence[ColumnElement[bool]]:
    """Return one condition for each way to find an agent, each of which an index leads."""
    parts = [and_(_is_led_to(WORDS, search.readings), _has_terms(WORDS, search.readings))]
    if search.number:
        led = _is_led_to(Operation.phone_number, [[search.number]])
        failed = select(Operation.agent_id).where(led, *_failed_with(search.number))
        parts.append(and_(Agent.phone_provisioning_status == PhoneStatus.FAILED, Agent.id.in_(failed)))
    if search.ids is not None:
        parts.append(Agent.id.between(*search.ids))
        of_these = Operation.id.between(*search.ids)
        parts += [
            Agent.id.in_(select(whose).where(of_these)) for whose in (Operation.agent_id, Operation.target_agent_id)
        ]
    if search.made_by is not None:
        parts += _with_provider_id(search.made_by, search.typed)
    return parts


def _with_provider_id(made_by: str, external_id: str) -> Sequence[ColumnElement[bool]]:
    """Return where the id is: the ledger, the shared trunks, and the paths that were adopted."""
    step = STEP_BY_NAME[made_by]
    ledger = (Resource.provider == step.provider, Resource.kind == step.name, Resource.external_id == external_id)
    parts: list[ColumnElement[bool]] = [
        Agent.id.in_(select(Resource.agent_id).where(*ledger, Resource.deleted_at.is_(None)))
    ]
    column = getattr(Agent, str(step.column))
    if made_by == TRUNK:
        parts.append(and_(Agent.trunk_id.is_(None), column == external_id))
    if made_by in (TRUNK, ORIGINATION_URL):
        shared = getattr(Trunk, str(step.column)) == external_id
        parts.append(Agent.trunk_id.in_(select(Trunk.id).where(shared)))
    else:
        parts.append(and_(Agent.adopted.is_not(None), column == external_id))
    return parts


def _failed_with(number: str) -> Sequence[ColumnElement[bool]]:
    failed: ColumnElement[Any] = literal_column(f"'{OperationStatus.FAILED}'")  # no parameter: the index has these only
    return (Operation.status == failed, _has_terms(Operation.phone_number, [[number]]))


def _has_terms(text: SQLColumnExpression[str], readings: Sequence[Sequence[str]]) -> ColumnElement[bool]:
    """Match a text that has all terms of one of the readings; a reading without a term matches nothing."""
    folded = func.search_fold(text)
    patterns = [[f"%{term}%" for term in terms] for terms in readings if terms]
    return or_(literal(value=False), *(folded.like(func.all(literal(one, ARRAY(Text)))) for one in patterns))


def _is_led_to(text: SQLColumnExpression[str], readings: Sequence[Sequence[str]]) -> ColumnElement[bool]:
    """Match through the index what may have the terms; folded terms have no character that means something to it."""
    alternatives = [" & ".join(_key(term) for term in terms) for terms in readings if terms]
    query = literal(" | ".join(f"({one})" for one in alternatives)).cast(TSQUERY)
    return func.search_keys(func.search_fold(text)).bool_op("@@")(query)


def _key(term: str) -> str:
    words = re.split(r"(?<=.) ", term)  # not at the blank before a word
    keys = {
        f"'{word[at : at + KEY_LENGTH]}'" + (":*" if len(word) < KEY_LENGTH else "")
        for word in words
        for at in range(max(len(word) - KEY_LENGTH + 1, 1))
    }
    return " & ".join(sorted(keys))
