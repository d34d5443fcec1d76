"""The console: the pages at `/` on which people see and act, rendered on the server."""
