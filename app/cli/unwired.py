"""The application where the settings are wrong: it has the commands and nothing else, so that `doctor` can say why."""

from collections.abc import Sequence

import click
from flask import Flask
from flask.cli import FlaskGroup, ScriptInfo

PROBLEMS = "trunkline.problems"
"""Where the lines that say what is wrong with the settings are kept."""


def is_for_a_command() -> bool:
    """Say whether `flask` is only looking for a command of ours; its own, like `flask run`, need the whole."""
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, FlaskGroup)


def has_read_files() -> bool:
    """Say whether `flask` has put `.env` into the environment, as it does unless FLASK_SKIP_DOTENV is set."""
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.obj, ScriptInfo) and context.obj.load_dotenv_defaults


def make_unwired(problems: Sequence[str]) -> Flask:
    """Build an application that serves nothing; every command but `doctor` ends with these lines."""
    app = Flask("app", static_folder=None)
    app.extensions[PROBLEMS] = tuple(problems)
    return app
