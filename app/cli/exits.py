"""The exit codes of every command; docs/cli.md says the same in a table."""

DONE = 0
"""It was done, or there was nothing to do."""

FAILED = 1
"""It was refused, or it failed."""

USAGE = 2
"""The command line cannot be read: click's own."""

ATTENTION = 3
"""It was done, and something is left that a person should look at: drift, part of a bulk, a doctor's warning."""

INTERRUPTED = 130
"""Ctrl-C, as of any shell: only the looking ended."""
