"""The command line: one module for each command or group of commands; docs/cli.md lists them all."""
