import uuid

import pytest

from app.access import Caller, Scope


@pytest.mark.parametrize(
    ("own", "allowed"),
    [
        ((), []),
        (("read",), [Scope.READ]),
        (("write",), [Scope.READ, Scope.WRITE]),
        (("admin",), [Scope.READ, Scope.WRITE, Scope.ADMIN]),
        (("read", "write"), [Scope.READ, Scope.WRITE]),
        (("something from a later version",), []),
    ],
)
def test_a_scope_includes_the_ones_before_it(own: tuple[str, ...], allowed: list[Scope]) -> None:
    caller = Caller(uuid.uuid4(), "tests", own)

    assert [scope for scope in Scope if caller.may(scope)] == allowed
