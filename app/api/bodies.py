"""Reads JSON bodies strictly: what another parser might read differently is refused, never guessed."""

import json
import math
from collections.abc import Sequence

from apiflask.schema_adapters.marshmallow import parser
from flask import Request
from marshmallow import Schema

from app.api.problems import validation_failed
from app.domain.errors import ErrorCode, RefusedError

MAX_BODY_BYTES = 64 * 1024
"""Bytes: far above any request of ours, far below what hurts a worker."""

MAX_DEPTH = 32
"""Levels of nesting: far above sensible metadata, far below Python's recursion limit when it is written out again."""


class _NotStrictJsonError(ValueError):
    """The text is JSON to Python, but not to everybody."""


def _no_constant(name: str) -> float:
    raise _NotStrictJsonError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise _NotStrictJsonError("a number is out of range")
    return value


def _unique_names(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NotStrictJsonError("a name appears twice in one object")
    return members


_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique_names)


def read_body(request: Request) -> bytes:
    """Return the body; raise the 413 for one that is too large.

    Werkzeug cuts a chunked body at its limit without a word (werkzeug wsgi.py LimitedStream.readall), so the limit
    given to it is one byte more than ours.
    """
    raw = request.get_data(cache=True)
    if len(raw) > MAX_BODY_BYTES:
        raise too_large()
    return raw


def too_large() -> RefusedError:
    """Build the 413."""
    detail = f"The body is larger than {MAX_BODY_BYTES} bytes."
    return RefusedError(ErrorCode.REQUEST_TOO_LARGE, detail, status=413)


@parser.location_loader("json")
def load_json_object(request: Request, schema: Schema) -> dict[str, object]:
    """Return the body, a JSON object; raise the 400, 413, 415 or 422 that says what is wrong with it.

    Where no field is required the body may be left out.
    """
    if not (request.mimetype or any(field.required for field in schema.fields.values()) or read_body(request)):
        return {}
    _check_content_type(request)
    document = _parse(read_body(request))
    if not isinstance(document, dict):
        raise validation_failed({"body": ["must be a JSON object"]})
    return document


def _check_content_type(request: Request) -> None:
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if request.mimetype != "application/json" or charset not in {"utf-8", "utf8"} or encoding != "identity":
        detail = "The body must be application/json in UTF-8, not compressed."
        errors = {"Content-Type": ["must be application/json"]}
        raise RefusedError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, detail, status=415, errors=errors)


def _parse(raw: bytes) -> object:
    try:
        document: object = _decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _malformed("is not UTF-8") from error
    except json.JSONDecodeError as error:
        where = f"is not JSON (line {error.lineno}, column {error.colno})" if raw.strip() else "is empty"
        raise _malformed(where) from error
    except _NotStrictJsonError as error:
        raise _malformed(str(error)) from error
    except ValueError as error:
        # An integer of more digits than Python agrees to read.
        raise _malformed("has a number out of range") from error
    except RecursionError as error:
        raise _malformed("is nested too deeply") from error
    check_depth(document)
    return document


def check_depth(value: object, depth: int = 0) -> None:
    """Raise the 400 for a value nested deeper than `MAX_DEPTH`."""
    if depth > MAX_DEPTH:
        raise _malformed("is nested too deeply")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            check_depth(inner, depth + 1)


def _malformed(message: str) -> RefusedError:
    detail = f"The body {message}." if message.startswith(("is", "has")) else f"The body is refused: {message}."
    return RefusedError(ErrorCode.MALFORMED_REQUEST, detail, status=400, errors={"body": [message]})
