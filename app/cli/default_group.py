"""A group whose first word may be an argument: `provision AGENT NUMBER` beside `provision import FILE`."""

from typing import Any

import click
from flask.cli import AppGroup


class DefaultGroup(AppGroup):
    """Takes a first word that is none of its commands for the first argument of `default`."""

    def __init__(self, *args: Any, default: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default's name before what belongs to it."""
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = [self._default, *args]
        return super().parse_args(ctx, args)
