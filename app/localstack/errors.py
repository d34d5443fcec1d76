"""What ends a local start with a line a person can act on."""


class StackError(Exception):
    """Something on this machine stands in the way; the message says what, and what to do about it."""


def sentence_of(error: Exception) -> str:
    """Return what an exception says, on one line: of the system's errors the reason and the file, without a number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
