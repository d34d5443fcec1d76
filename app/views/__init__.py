"""The read model that API, console and command line share, and the schemas of request and response bodies."""
