"""Reads request bodies: in full, within a size limit, and JSON strictly (nothing that parsers read differently)."""

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING

from apiflask.schema_adapters.marshmallow import parser
from flask import Request
from gunicorn.http.errors import ParseException
from marshmallow import Schema

from app.domain.errors import ErrorCode, RefusedError, validation_failed
from app.domain.texts import InvalidTextError, read_json

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_BODY_BYTES = 64 * 1024
"""Bytes: far more than any request needs, far less than what harms a worker."""

MAX_BULK_BODY_BYTES = 4 * 1024 * 1024
"""Bytes of a bulk: 10,000 items of some 200 bytes are 2 MiB; the rest is for agents with some metadata."""

BODY_LIMITS = {
    "provisionings.start_bulk": MAX_BULK_BODY_BYTES,
    "declarations.apply_declaration": MAX_BULK_BODY_BYTES,
    "console.create_bulk": MAX_BULK_BODY_BYTES,
    "console.check_bulk": MAX_BULK_BODY_BYTES,
}
"""Endpoint -> its own limit in bytes."""


MALFORMED_BODY = "trunkline.malformed_body"
"""Set in the WSGI environment of a request whose body violates HTTP."""

FromCsv = Callable[[bytes], list[object]]
"""How a schema that also takes CSV converts it to its `items`; `ValueError` if the file as a whole is invalid."""


def buffer_bodies(application: "WSGIApplication") -> "WSGIApplication":
    """Wrap a WSGI application so that it never sees a body that ends early or has malformed chunks.

    Otherwise every reader of a body (a view, a form, an error page) would have to handle what each server raises.
    """

    def respond(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" in environ:
            _buffer_body(environ)
        return application(environ, start_response)

    return respond


def _buffer_body(environ: "WSGIEnvironment") -> None:
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    try:
        length = MAX_BULK_BODY_BYTES + 1 if is_chunked else int(environ["CONTENT_LENGTH"])
    except ValueError:
        length = -1
    if length > MAX_BULK_BODY_BYTES + is_chunked or (is_chunked and not environ.get("wsgi.input_terminated")):
        # It is refused for its length; or the server cannot tell where it ends, and Werkzeug treats it as empty.
        return
    raw = b""
    try:
        raw = environ["wsgi.input"].read(length) if length >= 0 else b""
        is_malformed = length < 0 or (len(raw) < length and not is_chunked)
    except (ParseException, OSError):
        is_malformed = True
    if is_malformed:
        raw, environ[MALFORMED_BODY] = b"", True
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ |= {"wsgi.input": BytesIO(raw), "CONTENT_LENGTH": str(len(raw))}


def refuse_malformed_body(request: Request) -> None:
    """Raise the 400 for a body that violates HTTP, even on a call that would not read it."""
    if MALFORMED_BODY in request.environ:
        raise _malformed("ends early, or is not chunked as HTTP/1.1 has it")


def read_body(request: Request) -> bytes:
    """Return the body; raise the 413 for one that is too large.

    Werkzeug silently truncates a chunked body at its limit (werkzeug wsgi.py LimitedStream.readall), so the limit
    that it is given is one byte more than ours.
    """
    raw = request.get_data(cache=True)
    if len(raw) > (limit := body_limit(request)):
        raise too_large(limit)
    return raw


def body_limit(request: Request) -> int:
    """Return the limit of this call's body in bytes."""
    return BODY_LIMITS.get(request.endpoint or "", MAX_BODY_BYTES)


def too_large(limit: int) -> RefusedError:
    """Build the 413."""
    detail = f"The body is larger than {limit} bytes."
    return RefusedError(ErrorCode.REQUEST_TOO_LARGE, detail)


@parser.location_loader("json")
def load_json_object(request: Request, schema: Schema) -> dict[str, object]:
    """Return the body, a JSON object; raise a 400, 413, 415 or 422 that says what is wrong with it.

    The body may be left out where no field is required.
    """
    if not (request.mimetype or any(field.required for field in schema.fields.values()) or read_body(request)):
        return {}
    from_csv: FromCsv | None = getattr(schema, "from_csv", None)
    if from_csv is not None and request.mimetype == "text/csv":
        _check_encoding(request, "text/csv", charsets=frozenset({*_UTF_8, "utf-16", "utf-16le", "utf-16be"}))
        return {"items": _items(from_csv, read_body(request))}
    _check_encoding(request, *getattr(schema, "mime_types", ("application/json",)))
    document = parse_json(read_body(request))
    if not isinstance(document, dict):
        raise validation_failed({"body": ["must be a JSON object"]})
    return document


def _items(from_csv: FromCsv, raw: bytes) -> list[object]:
    try:
        return from_csv(raw)
    except ValueError as error:
        raise validation_failed({"body": [str(error)]}) from error


_UTF_8 = frozenset({"utf-8", "utf8"})


def _check_encoding(request: Request, *mime_types: str, charsets: frozenset[str] = _UTF_8) -> None:
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if request.mimetype not in mime_types or charset not in charsets or encoding != "identity":
        mime_type = " or ".join(mime_types)
        detail = f"The body must be {mime_type} in UTF-8, not compressed."
        errors = {"Content-Type": [f"must be {mime_type}"]}
        raise RefusedError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, detail, errors=errors)


def parse_json(raw: bytes) -> object:
    """Parse JSON strictly, ignoring a byte order mark; raise a 400 that says what is wrong with it."""
    try:
        return read_json(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _malformed("is not UTF-8") from error
    except InvalidTextError as error:
        raise _malformed(str(error)) from error


def _malformed(message: str) -> RefusedError:
    return RefusedError(ErrorCode.MALFORMED_REQUEST, f"The body {message}.", errors={"body": [message]})
