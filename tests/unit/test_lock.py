"""Both locks, read as the strictest pip reads them, and held against what production imports."""

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

LOCK, RUNTIME_LOCK = "requirements.lock", "requirements-runtime.lock"

LOCKS = {LOCK: ("local", "dev"), RUNTIME_LOCK: ()}
"""Lock -> the groups of pyproject.toml that it has beside the dependencies."""

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


def _locked(lock: str) -> list[Requirement]:
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    return [Requirement(line.rstrip("\\ ")) for line in lines if line[:1].isalnum()]


def _pins(lock: str) -> dict[str, dict[str, list[str]]]:
    """Return package -> form (its extras in brackets) -> version and hashes of each line that has it."""
    pins: dict[str, dict[str, list[str]]] = {}
    text = (ROOT / lock).read_text(encoding="utf-8")
    for name, extras, version, hashes in re.findall(r"(?m)^([a-z0-9][^[=]*)(\[[^]]+\])?==(\S+)((?:.*\\\n)*.*\n)", text):
        pin = "\n".join([version, *re.findall(r"sha256:\w+", hashes)])
        pins.setdefault(name, {}).setdefault(extras, []).append(pin)
    return pins


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


def _required(*groups: str) -> set[Form]:
    """Return every form of every package that pip meets on its way through the project's requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    of_groups = [line for group in groups for line in project["dependency-groups"][group]]
    left = [_form(Requirement(line)) for line in (*project["project"]["dependencies"], *of_groups)]
    met: set[Form] = set()
    while left:
        form = left.pop()
        if form not in met:
            met.add(form)
            left += _required_by(form)
    return met


@pytest.mark.parametrize(("lock", "groups"), LOCKS.items(), ids=LOCKS)
def test_every_form_in_which_a_package_is_required_has_a_line_of_its_own(lock: str, groups: Sequence[str]) -> None:
    locked = {_form(requirement) for requirement in _locked(lock)}
    required = _required(*groups)

    assert ("pydantic", frozenset({"email"})) in required
    assert required - locked == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_all_forms_of_a_package_are_locked_to_the_same_files(lock: str) -> None:
    pins = _pins(lock)

    assert {len(forms) for forms in pins.values()} == {1, 2}
    assert [name for name, forms in pins.items() if any(pin != forms[""] for pin in forms.values())] == []


def test_production_has_the_developers_versions_and_files() -> None:
    developers, production = _pins(LOCK), _pins(RUNTIME_LOCK)

    assert len(production) < len(developers)
    assert [name for name, forms in production.items() if forms[""] != developers.get(name, {}).get("")] == []


def test_production_has_no_package_that_nothing_of_it_requires() -> None:
    here = {form for form in map(_form, _locked(RUNTIME_LOCK)) if _is_installed(form[0])}
    # The form with all extras, or without any, is there for the oldest pip alone.
    assert {name for name, _ in here} - {name for name, _ in _required()} == set()


def test_production_has_every_package_that_it_imports() -> None:
    distributions = packages_distributions()
    locked = set(_pins(RUNTIME_LOCK))
    imported = _imported_by_production()

    assert {"celery", "flower", "gunicorn", "alembic", "opentelemetry"} <= imported
    # A namespace, such as google or livekit, is of several packages.
    assert [name for name in imported if not locked & set(map(canonicalize_name, distributions[name]))] == []


def _is_installed(name: str) -> bool:
    try:
        requires(name)
    except PackageNotFoundError:
        return False
    return True


def _imported_by_production() -> set[str]:
    """Return the packages of others that some module imports, the local stack's left out."""
    paths = [path for top in ("app", "tasks", "migrations") for path in (ROOT / top).rglob("*.py")]
    paths = [path for path in paths if ROOT / "app" / "dev" / "localstack" not in path.parents]
    found = set()
    for path in (*paths, ROOT / "celeryconfig.py", ROOT / "flowerconfig.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"app", "tasks", "celeryconfig", "_typeshed"}


def test_a_package_with_extras_is_written_bare_with_each_extra_and_with_all(lock_script: ModuleType) -> None:
    compiled = "plain==1.0 \\\n    --hash=sha256:aa\nthing[a,b]==2.0 ; python_version > '3' \\\n    --hash=sha256:bb\n"
    written = lock_script.with_every_form(compiled)

    assert re.findall(r"(?m)^\S+==", written) == ["plain==", "thing==", "thing[a]==", "thing[b]==", "thing[a,b]=="]
    assert written.count("==2.0 ; python_version > '3' \\\n    --hash=sha256:bb\n") == 4
