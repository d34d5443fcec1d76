"""`keys`: API keys."""

import click
from rich.text import Text

from app.cli.client import client
from app.cli.context import Row, command_line, json_option, user_command
from app.cli.output import GOOD, command_error, format_time, print_json, print_line, print_table
from app.domain.workspaces import Scope

keys = click.Group("keys", help="API keys: create, list, revoke.")


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    default=[Scope.READ.value, Scope.WRITE.value],
    show_default=True,
    help="What the key may do; repeatable. admin includes write, write includes read.",
)
@json_option
@user_command
def create_key(name: str, scopes: tuple[str, ...], is_json: bool) -> None:
    """Create a key called NAME and print it; it is not shown again."""
    made = client().post("/api/keys", {"name": name, "scopes": list(scopes)})
    if is_json:
        print_json(made)
        return
    print_line(made["key"])
    slug = made["workspace"]
    whose = f"It sees the workspace {slug}" if slug else "It is an operator's: it sees all workspaces"
    print_line(f"Save it now: only its hash is stored, and it cannot be shown again. {whose}.", err=True)


def _all_keys() -> list[Row]:
    """Return every key, the oldest first."""
    found, _last = client().pages("/api/keys", None)
    return found[::-1]


@keys.command("list")
@json_option
@user_command
def list_keys(is_json: bool) -> None:
    """List every key, revoked ones too, with its workspace and last use; never the keys themselves."""
    rows = _all_keys()
    if is_json:
        print_json(rows)
        return
    if not rows:
        print_line(f"No keys: create one with {command_line('keys create NAME')}", err=True)
        return
    print_table(
        ("name", "workspace", "scopes", "created (UTC)", "last used (UTC)", "state", "id"),
        [
            (
                row["name"],
                row["workspace"] or "all",
                ", ".join(row["scopes"]),
                format_time(row["createdAt"]),
                format_time(row["lastUsedAt"]) or "never",
                Text(f"revoked {format_time(row['revokedAt'])}", "dim") if row["revokedAt"] else Text("valid", GOOD),
                row["id"],
            )
            for row in rows
        ],
    )


@keys.command("revoke")
@click.argument("id_or_name")
@json_option
@user_command
def revoke_key(id_or_name: str, is_json: bool) -> None:
    """Revoke the key with this id or name; it stops working at once."""
    live = [row for row in _all_keys() if row["revokedAt"] is None and id_or_name in {row["id"], row["name"]}]
    if not live:
        raise command_error(f"There is no valid key {id_or_name!r}; see `keys list`.")
    if len(live) > 1:
        ids = ", ".join(row["id"] for row in live)
        raise command_error(f"{len(live)} valid keys are named {id_or_name!r}: revoke by id ({ids}).")
    (key,) = live
    client().request("DELETE", f"/api/keys/{key['id']}")
    if is_json:
        print_json(next(row for row in _all_keys() if row["id"] == key["id"]))
        return
    print_line(f"Revoked {key['name']} ({key['id']}).")
