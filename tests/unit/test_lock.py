"""requirements.lock, read as the strictest pip reads it."""

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

Form = tuple[str, frozenset[str]]
"""A package and the extras that it is required with."""


@pytest.fixture(scope="module")
def lock_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock_script", ROOT / ".ci" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _form(requirement: Requirement) -> Form:
    return canonicalize_name(requirement.name), frozenset(map(canonicalize_name, requirement.extras))


def _locked() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line.rstrip("\\ ")) for line in lines if line[:1].isalnum()]


def _required_by(form: Form) -> Iterator[Form]:
    """Yield what an installed package requires here; nothing for one that is for other machines."""
    name, extras = form
    try:
        told = requires(name) or []
    except PackageNotFoundError:
        return
    for requirement in map(Requirement, told):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in ("", *extras)):
            yield _form(requirement)


def _required() -> set[Form]:
    """Return every form of every package that pip meets on its way through the project's requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    left = [
        _form(Requirement(line)) for line in (*project["project"]["dependencies"], *groups["local"], *groups["dev"])
    ]
    met: set[Form] = set()
    while left:
        form = left.pop()
        if form not in met:
            met.add(form)
            left += _required_by(form)
    return met


def test_every_form_in_which_a_package_is_required_has_a_line_of_its_own() -> None:
    locked = {_form(requirement) for requirement in _locked()}
    required = _required()

    assert ("pydantic", frozenset({"email"})) in required
    assert required - locked == set()


def test_all_forms_of_a_package_are_locked_to_the_same_files() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins: dict[str, dict[str, list[str]]] = {}
    for name, extras, pin in re.findall(r"(?m)^([a-z0-9][^[=]*)(\[[^]]+\])?(==(?:.*\\\n)*.*\n)", lock):
        pins.setdefault(name, {}).setdefault(extras, []).append(pin)

    assert {len(forms) for forms in pins.values()} == {1, 2}
    assert [name for name, forms in pins.items() if any(pin != forms[""] for pin in forms.values())] == []


def test_a_package_with_extras_is_written_bare_with_each_extra_and_with_all(lock_script: ModuleType) -> None:
    compiled = "plain==1.0 \\\n    --hash=sha256:aa\nthing[a,b]==2.0 ; python_version > '3' \\\n    --hash=sha256:bb\n"
    written = lock_script.with_every_form(compiled)

    assert re.findall(r"(?m)^\S+==", written) == ["plain==", "thing==", "thing[a]==", "thing[b]==", "thing[a,b]=="]
    assert written.count("==2.0 ; python_version > '3' \\\n    --hash=sha256:bb\n") == 4
