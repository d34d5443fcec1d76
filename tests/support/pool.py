"""A pool of shared trunks in memory, for single steps: one trunk, everybody on it."""

import uuid
from dataclasses import dataclass, field, replace
from datetime import timedelta

from app.path.spec import Profile
from app.trunks.pool import Making, Place

TRUNK_ID = uuid.UUID("00000000-0000-4000-8000-0000000000aa")


@dataclass
class MemoryPool:
    """One trunk; `place` is what is known of it."""

    place: Place = field(default_factory=lambda: Place(TRUNK_ID, {}))
    checked: bool = False
    making: Making | None = None
    may_have_happened: bool = False

    def of(self, _: Profile) -> "MemoryPool":
        """Return itself: one pool for all profiles."""
        return self

    def take_place(
        self, agent_id: uuid.UUID, operation_id: uuid.UUID, step: str, token: uuid.UUID, **_: object
    ) -> Place:
        return self.place

    def next_place(self) -> Place | None:
        return self.place if self.place.ids else None

    def begin_making(self, trunk_id: uuid.UUID, step: str) -> Making | None:
        if self.making is not None:
            return None
        self.making = Making(uuid.uuid4(), self.may_have_happened)
        return self.making

    def keep_made(
        self, trunk_id: uuid.UUID, token: uuid.UUID, step: str, sid: str, parent_sid: str | None, *, was_there: bool
    ) -> str | None:
        self.place = replace(self.place, ids={**self.place.ids, step: sid})
        self.checked, self.making = True, None
        return sid

    def end_making(
        self, trunk_id: uuid.UUID, token: uuid.UUID, *, is_clear: bool, settles_in: timedelta | None = None
    ) -> None:
        self.making, self.may_have_happened = None, not is_clear

    def forget(self, trunk_id: uuid.UUID, step: str, sid: str) -> None:
        self.place = replace(self.place, ids={})

    def is_checked(self, trunk_id: uuid.UUID) -> bool:
        return self.checked

    def keep_checked(self, trunk_id: uuid.UUID) -> None:
        self.checked = True

    def is_shared(self, sid: str) -> bool:
        return sid in self.place.ids.values()
