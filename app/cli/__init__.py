"""The command line: one module for each command, or group of them; docs/cli.md lists them all."""
