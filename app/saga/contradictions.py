"""Why LiveKit refuses a trunk or rule, and which trunks and rules contradict each other whoever made them, in words.

A refusal names what is in its way; dry run and `doctor` say so before. LiveKit's own text may quote only one of two.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.path.marks import mark_in
from app.path.observed import DispatchRule, InboundTrunk, RuleKind, normalised, rule_conflicts, trunk_conflicts
from app.providers.errors import quoted

MOST_NAMED = 3
"""Objects that a sentence names: whoever clears these finds the next ones."""

NAME_CHARACTERS = 64
"""Characters of a name that is shown: the whole of a tag."""

Record = TypeVar("Record", InboundTrunk, DispatchRule)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One cause: all records that hang together in it, and what is wrong, naming the first of them."""

    ids: frozenset[str]
    sentence: str
    stops_all: bool = True
    """Whether LiveKit makes no further trunk, or rule, at all: not only none for the same number."""


def refusals_of_trunk(ours: InboundTrunk, others: Iterable[InboundTrunk]) -> list[Contradiction]:
    """Return why LiveKit refuses our trunk: what it contradicts, and what else contradicts each other.

    It holds all against each other that have one of our numbers, and all without numbers (livekit/livekit
    pkg/service/sip.go, CreateSIPInboundTrunk).
    """
    numbers = set(map(normalised, ours.numbers))
    checked = [one for one in others if not one.numbers or numbers.intersection(map(normalised, one.numbers))]
    having = [one for one in checked if trunk_conflicts([one, ours])]
    found = [_contradiction("LiveKit trunk", having, f"{_has(having)} the number.")] if having else []
    return found + _between_trunks([one for one in checked if one not in having], numbers)


def trunk_contradictions(trunks: Iterable[InboundTrunk]) -> list[Contradiction]:
    """Return which trunks contradict each other, in groups that hang together."""
    return _between_trunks(trunks, set())


def _between_trunks(trunks: Iterable[InboundTrunk], known: set[str]) -> list[Contradiction]:
    """Return the contradictions; of `known` numbers it is clear which is meant."""
    found = []
    for group in _groups(trunk_conflicts(trunks)):
        shared = set.intersection(*(set(map(normalised, one.numbers)) for one in group))
        if shared and not shared & known:
            what, effect = f"have {_listed(sorted(shared))}", "its calls, and every other trunk for it,"
        else:
            what, effect = "have the number" if group[0].numbers else "take any number", "every new trunk"
        sentence = f"{_all(group)} {what}: LiveKit refuses {effect} until one is changed."
        found.append(_contradiction("LiveKit trunk", group, sentence, stops_all=not group[0].numbers))
    return found


def refusals_of_rule(
    ours: DispatchRule, others: Iterable[DispatchRule], *, is_update: bool = False
) -> list[Contradiction]:
    """Return why LiveKit refuses our rule: what it contradicts, and what else contradicts each other.

    A new rule is held against all of the project, and they against each other; an update only against the rules of its
    trunks and those without trunks (pkg/service/sip.go, CreateSIPDispatchRule and UpdateSIPDispatchRule).
    """
    checked = [one for one in others if not (is_update and one.trunk_ids) or set(ours.trunk_ids) & set(one.trunk_ids)]
    having = [one for one in checked if (one, ours) in rule_conflicts([one, ours])]
    found = [_contradiction("LiveKit dispatch rule", having, f"{_has(having)} the trunk.")] if having else []
    return found + rule_contradictions(one for one in checked if one not in having)


def rule_contradictions(rules: Iterable[DispatchRule]) -> list[Contradiction]:
    """Return which rules contradict each other, in groups that hang together, or themselves."""
    found = []
    for group in _groups(rule_conflicts(rules)):
        if len(group) > 1:
            why = "take the same calls: LiveKit refuses every new rule until one is changed."
        elif group[0].kind is RuleKind.UNKNOWN:
            why = "is of no kind that LiveKit takes: it refuses every new rule until it is changed."
        else:
            why = "contradicts itself: LiveKit refuses every new rule until it is changed."
        found.append(_contradiction("LiveKit dispatch rule", group, why))
    return found


def is_foreign_catch_all(rule: DispatchRule) -> bool:
    """Tell whether a rule takes every call that no other rule takes, and no installation of Trunkline made it."""
    return not rule.trunk_ids and mark_in(rule.name, rule.metadata) is None


def _groups(pairs: Iterable[tuple[Record, Record]]) -> list[list[Record]]:
    """Return the records of the pairs in groups: what is paired, directly or by others, is one cause."""
    found: list[dict[str, Record]] = []
    for one, other in pairs:
        joined = {one.id: one, other.id: other}
        apart: list[dict[str, Record]] = []
        for group in found:
            if group.keys() & joined.keys():
                joined = group | joined
            else:
                apart.append(group)
        apart.append(joined)
        found = apart
    return [list(group.values()) for group in found]


def _contradiction(
    kind: str, group: Sequence[InboundTrunk | DispatchRule], why: str, *, stops_all: bool = True
) -> Contradiction:
    sentence = f"{kind}{'s' if len(group) > 1 else ''} {_listed([_named(one) for one in group])} {why}"
    return Contradiction(frozenset(one.id for one in group), sentence, stops_all)


def _has(group: Sequence[object]) -> str:
    return "has" if len(group) == 1 else "have"


def _all(group: Sequence[object]) -> str:
    return "both" if len(group) == 2 else "all"  # noqa: PLR2004 - English has a word for two


def _listed(texts: Sequence[str]) -> str:
    """List the first texts: `one, two and 3 others`."""
    few = list(texts if len(texts) <= MOST_NAMED else texts[: MOST_NAMED - 1])
    if len(few) < len(texts):
        few.append(f"{len(texts) - len(few)} others")
    return " and ".join(filter(None, [", ".join(few[:-1]), few[-1]]))


def _named(one: InboundTrunk | DispatchRule) -> str:
    """Name an object by id and name: `ST_a ("one")`."""
    name = quoted(one.name)[:NAME_CHARACTERS]
    return f'{one.id} ("{name}")' if name else one.id
