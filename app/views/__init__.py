"""What API, console and command line show: the read model, and the schemas of bodies."""
