import pytest
from sqlalchemy import select

from app.access import KeyRefusedError, KeyService, Scope
from app.db.access import ApiKey
from tests.support.api import Api


@pytest.fixture
def keys(api: Api) -> KeyService:
    return KeyService(api.wiring.sessions)


def test_a_key_opens_what_it_was_made_for(keys: KeyService) -> None:
    row, text = keys.create("ops", [Scope.READ, Scope.WRITE, Scope.READ])

    caller = keys.authenticate(text)

    assert caller is not None
    assert (caller.key_id, caller.name, caller.scopes) == (row.id, "ops", ("read", "write"))
    assert caller.may(Scope.WRITE)
    assert not caller.may(Scope.ADMIN)


def test_two_keys_are_never_the_same(keys: KeyService) -> None:
    assert len({keys.create("same name", [Scope.READ])[1] for _ in range(20)}) == 20


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0", "x" * 101])
def test_a_name_that_cannot_be_shown_is_refused(keys: KeyService, name: str) -> None:
    with pytest.raises(KeyRefusedError):
        keys.create(name, [Scope.READ])


def test_a_key_is_revoked_by_name_or_id_once(keys: KeyService) -> None:
    first, text = keys.create("a", [Scope.READ])
    second, _ = keys.create("b", [Scope.READ])

    assert keys.revoke("a").id == first.id
    assert keys.revoke(str(second.id)).id == second.id
    assert keys.authenticate(text) is None
    for gone in ("a", str(second.id), "never made"):
        with pytest.raises(KeyRefusedError, match="no valid key"):
            keys.revoke(gone)


def test_a_name_that_two_keys_have_revokes_neither(api: Api, keys: KeyService) -> None:
    first, second = keys.create("same", [Scope.READ])[0], keys.create("same", [Scope.READ])[0]

    with pytest.raises(KeyRefusedError, match="2 valid keys") as refused:
        keys.revoke("same")

    assert str(first.id) in str(refused.value)
    with api.wiring.sessions() as session:
        live = session.scalars(select(ApiKey.id).where(ApiKey.revoked_at.is_(None))).all()
    assert {first.id, second.id} <= set(live)


def test_every_key_is_listed_revoked_ones_too(keys: KeyService) -> None:
    keys.create("a", [Scope.ADMIN])
    keys.revoke("a")

    assert [(row.name, row.revoked_at is None) for row in keys.all()] == [("tests", True), ("a", False)]
