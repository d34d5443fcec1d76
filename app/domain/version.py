"""The version: what `trunkline --version` and the description of the API say."""

VERSION = "0.1.0"
"""As in pyproject.toml."""
