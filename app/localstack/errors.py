"""The one error that ends a local start with a line a person can act on."""


class StackError(Exception):
    """Something on this machine stands in the way; the message says what, and what to do about it."""
