"""`plan`, `apply` and `export`: agents and numbers as a file declares them."""

import json
import sys
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from app.cli.bulk import read_bulk, watch_bulk
from app.cli.client import ProblemError, client
from app.cli.context import (
    EXIT_ATTENTION,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    NewFile,
    command_line,
    json_option,
    user_command,
)
from app.cli.declared_files import DeclaredFile, read_file, write_text
from app.cli.output import CommandError, command_error, confirm, print_json, print_line
from app.domain.operations import BulkStatus, ItemStatus
from app.domain.texts import escaped

EXIT_CHANGES = 2
"""Of `plan`: there is something to do, as `terraform plan -detailed-exitcode` says it."""

URL = "/api/declarations"

MARKS = {"create": "+", "update": "~", "provision": "+", "move": ">", "deprovision": "-", "delete": "-"}
"""Kind of change -> what its line begins with."""

NOTHING = "Nothing to do: all is as the file says."

Row = dict[str, Any]
"""A row of the API."""

LONGEST_VALUE = 60
"""Characters of a value that a line of the plan shows."""


class _WrongLineError(click.UsageError):
    """What is wrong with a command line whose exit code 2 means something else."""

    exit_code = EXIT_FAILED


class FileRefusedError(CommandError):
    """What the application says of a file, with its lines; the exit code is 1, whatever it is about."""

    def __init__(self, text: str, error: ProblemError) -> None:
        super().__init__(escaped(text, keep="\n"))
        self._error = error

    def as_problem(self) -> dict[str, Any]:
        """Return the problem as the application sent it."""
        return self._error.as_problem()


class FileCommand(click.Command):
    """A command whose exit code 2 has a meaning of its own: what is wrong with the command line is 1 here."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the command line."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _WrongLineError(error.message, error.ctx) from error


file_option = click.option(
    "-f",
    "--file",
    "path",
    required=True,
    metavar="FILE",
    help="YAML, JSON if it ends in .json; - is standard input.",
)
prune_option = click.option(
    "--prune",
    is_flag=True,
    help="Delete agents that have an external id and are not in the file, and their paths.",
)


@click.command("plan", cls=FileCommand)
@file_option
@prune_option
@json_option
@user_command
def plan(path: str, prune: bool, is_json: bool) -> None:
    """Show what apply would change, and change nothing.

    Exit code 0: nothing to do; 2: there are changes; 1: the file is wrong, or cannot be applied now.
    """
    file = read_file(path)
    planned = _send(file, prune=prune, is_dry_run=True)
    if is_json:
        print_json(planned)
    else:
        _print_plan(planned)
    if planned["conflicts"]:
        raise _conflicts(file, planned["conflicts"])
    sys.exit(EXIT_CHANGES if planned["changes"] else EXIT_OK)


@click.command("apply", cls=FileCommand)
@file_option
@prune_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until everything has been done.")
@json_option
@user_command
def apply(path: str, prune: bool, yes: bool, wait: bool, is_json: bool) -> None:
    """Make agents and numbers what the file says.

    It shows the plan and asks; in a script, --yes. It may be repeated at any time.

    Exit code 0: done, or nothing to do; 3: some of it failed; 1: the file is wrong or cannot be applied now, and
    nothing was changed; 130: interrupted.
    """
    file = read_file(path)
    if not yes:
        planned = _send(file, prune=prune, is_dry_run=True)
        _print_plan(planned, err=is_json)
        if planned["conflicts"]:
            raise _conflicts(file, planned["conflicts"])
        if planned["changes"]:
            confirm(f"Make {_count(planned['changes'])}?")
    applied = _send(file, prune=prune, is_dry_run=False)
    if yes and not is_json:
        _print_plan(applied)
    bulk, failures = None, []
    if applied["bulkId"]:
        bulk = _finished(applied["bulkId"], wait=wait, is_json=is_json)
        failures = _failures(applied)
    if is_json:
        print_json({**applied, "bulk": bulk, "failures": failures})
    else:
        _print_end(file, applied, bulk, failures)
    if bulk is not None and BulkStatus(bulk["status"]).is_final and bulk["status"] != BulkStatus.SUCCEEDED:
        sys.exit(EXIT_ATTENTION)


@click.command("export", cls=FileCommand)
@click.option(
    "-o",
    "--output",
    type=NewFile(),
    help="The file to write, JSON if it ends in .json; else standard output.",
)
@json_option
@user_command
def export(output: Path | None, is_json: bool) -> None:
    """Write what is there as a file that apply takes.

    It has every agent with an external id; the others are left out.
    """
    found = client().get(URL)
    text = write_text(found, is_json=is_json or (output is not None and output.suffix == ".json"))
    if output is None:
        for line in text.removesuffix("\n").split("\n"):
            print_line(line)
        return
    output.write_text(text, encoding="utf-8")
    print_line(f"{output} has {len(found['agents'])} agents; those without an external id are left out.", err=True)


def _send(file: DeclaredFile, *, prune: bool, is_dry_run: bool) -> Row:
    if not isinstance(file.document, dict):
        raise command_error(f"{file.name}: it must be an object with the list agents.")
    query = {"prune": prune, "dryRun": is_dry_run}
    try:
        return dict(client().request("POST", URL, body=file.document, query=query).body)
    except ProblemError as error:
        raise _refusal(file, error) from error


def _refusal(file: DeclaredFile, error: ProblemError) -> "FileRefusedError":
    what = error.detail if error.status == HTTPStatus.CONFLICT or not error.errors else "The file is not valid."
    lines = [_at(file, pointer, sentence) for pointer, all_of in error.errors.items() for sentence in all_of]
    return FileRefusedError("\n".join([f"{what} ({error.code})", *lines]), error)


def _conflicts(file: DeclaredFile, conflicts: Iterable[Row]) -> "FileRefusedError":
    errors: dict[str, list[str]] = {}
    for one in conflicts:
        errors.setdefault(one["pointer"], []).append(f"{one['externalId']}: {one['detail']} ({one['code']})")
    detail = "This cannot be applied as things stand: nothing would be changed."
    return _refusal(file, ProblemError("declaration_conflict", detail, errors, status=HTTPStatus.CONFLICT))


def _at(file: DeclaredFile, pointer: str, sentence: str) -> str:
    """Return one error: place in the file, field, sentence."""
    names = [name.replace("~1", "/").replace("~0", "~") for name in pointer.split("/")[1:]]
    where = "".join(f"[{name}]" if name.isdecimal() else f".{name}" for name in names).removeprefix(".")
    return f"{file.place_of(pointer)}: {where or pointer}: {sentence}"


def _print_plan(planned: Row, *, err: bool = False) -> None:
    for change in planned["changes"]:
        print_line(_line(change), err=err)
    if planned["changes"]:
        at_once = sum(1 for change in planned["changes"] if change["position"] is None)
        counts = ", ".join(f"{count} {kind}" for kind, count in planned["counts"].items())
        queued = len(planned["changes"]) - at_once
        print_line(f"Plan: {counts}. {at_once} at once, {queued} in a bulk.", err=err)
    elif not planned["conflicts"]:
        print_line(NOTHING, err=err)


def _line(change: Row) -> str:
    kind, number = change["kind"], change["phoneNumber"] or ""
    match kind:
        case "create" | "update":
            more = ", ".join(_field(one, is_new=kind == "create") for one in change["fields"])
        case "move":
            more = f"{number} from {change['fromExternalId']}"
        case "delete":
            more = "(not in the file)"
        case _:
            more = number if change["pointer"] else f"{number} (not in the file)"
    return f"{MARKS[kind]} {kind:<12} {change['externalId']}  {more}".rstrip()


def _field(one: Mapping[str, Any], *, is_new: bool) -> str:
    after = _short(one["after"])
    return f"{one['field']} {after}" if is_new else f"{one['field']} {_short(one['before'])} -> {after}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}\N{HORIZONTAL ELLIPSIS}"


def _count(changes: Iterable[Row]) -> str:
    kinds = [change["kind"] for change in changes]
    text = "1 change" if len(kinds) == 1 else f"{len(kinds)} changes"
    gone = kinds.count("delete")
    return f"{text}, {gone} of them an agent that is deleted" if gone else text


def _finished(bulk_id: str, *, wait: bool, is_json: bool) -> Row:
    """Return the bulk, at its end if that is waited for; 130 on Ctrl-C, which stops the display alone."""
    bulk = read_bulk(bulk_id)
    if not wait:
        return bulk
    try:
        return watch_bulk(bulk, is_json=is_json)
    except KeyboardInterrupt:
        for said in ("The bulk continues. Watch it again with:", command_line(f"provision watch {bulk_id}")):
            print_line(said, err=is_json)
        sys.exit(EXIT_INTERRUPTED)


def _failures(applied: Row) -> list[Row]:
    """Return the items that did not succeed, each with its change."""
    of_position = {change["position"]: change for change in applied["changes"]}
    found = []
    for status in (ItemStatus.FAILED, ItemStatus.CANCELLED):
        items, _last = client().pages(f"{applied['statusUrl']}/items", None, status=status.value)
        found += [{**of_position[item["position"]], "error": item["error"]} for item in items]
    return found


def _print_end(file: DeclaredFile, applied: Row, bulk: Row | None, failures: Iterable[Row]) -> None:
    for one in failures:
        place = file.place_of(one["pointer"]) if one["pointer"] else file.name
        error = one["error"] or {"detail": "", "code": "cancelled"}
        print_line(f"{place}: {one['kind']} {one['externalId']}: {error['detail']} ({error['code']})")
    if bulk is not None:
        summary = ", ".join(f"{count} {name}" for name, count in bulk["counts"].items() if count)
        print_line(f"Bulk {bulk['id']} is {bulk['status']}: {summary}.")
    elif applied["changes"]:
        print_line("Done.")
