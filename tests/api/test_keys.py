import uuid

import pytest

from app.access import KeyService, Scope
from app.db.visibility import seeing
from app.domain.errors import ErrorCode, RefusedError
from app.domain.workspaces import DEFAULT_WORKSPACE
from tests.support.api import NOBODY, Api


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
    with pytest.raises(RefusedError) as refused:
        keys.create(name, [Scope.READ])

    assert (refused.value.code, *refused.value.errors) == (ErrorCode.VALIDATION_FAILED, "name")


def test_a_key_is_revoked_once(keys: KeyService) -> None:
    row, text = keys.create("a", [Scope.READ])

    assert keys.revoke(row.id).id == row.id
    assert keys.authenticate(text) is None
    for gone in (row.id, uuid.UUID(NOBODY)):
        with pytest.raises(RefusedError) as refused:
            keys.revoke(gone)
        assert refused.value.code is ErrorCode.KEY_NOT_FOUND


def test_every_key_is_listed_revoked_ones_too(keys: KeyService) -> None:
    keys.revoke(keys.create("a", [Scope.ADMIN])[0].id)

    assert [(row.name, row.revoked_at is None) for row in keys.all()] == [("tests", True), ("a", False)]


def test_a_key_is_its_workspace_s_or_an_operator_s(keys: KeyService) -> None:
    with seeing(DEFAULT_WORKSPACE):
        theirs = keys.create("theirs", [Scope.READ])[0]
        assert [row.name for row in keys.all()] == ["theirs"]
    named = keys.create("named", [Scope.READ], workspace="default")[0]
    operators = keys.create("operators", [Scope.READ])[0]

    assert [row.workspace and row.workspace.slug for row in (theirs, named, operators)] == ["default", "default", None]
    assert [row.workspace_id for row in keys.all()] == [None, DEFAULT_WORKSPACE, DEFAULT_WORKSPACE, None]


@pytest.mark.parametrize("slug", ["nowhere", "", "a\0", "DEFAULT"])
def test_a_key_for_a_workspace_that_is_not_seen_is_refused(api: Api, keys: KeyService, slug: str) -> None:
    api.wiring.workspaces.create("other", "Other")
    for wanted in (slug, "default"):
        with pytest.raises(RefusedError) as refused, seeing(api.wiring.workspaces.named("other").id):
            keys.create("a", [Scope.READ], workspace=wanted)
        assert refused.value.code is ErrorCode.WORKSPACE_NOT_FOUND
    assert api.count("api_keys") == 1


def test_whoever_sees_a_workspace_revokes_no_other_s_key(api: Api, keys: KeyService) -> None:
    row = keys.create("operators", [Scope.READ])[0]

    with seeing(DEFAULT_WORKSPACE), pytest.raises(RefusedError):
        keys.revoke(row.id)

    assert keys.get(row.id).revoked_at is None
