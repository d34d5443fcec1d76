"""Reads bodies whole, and JSON strictly: what another parser might read differently is refused, never guessed."""

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING

from apiflask.schema_adapters.marshmallow import parser
from flask import Request
from gunicorn.http.errors import ParseException
from marshmallow import Schema

from app.domain.errors import ErrorCode, RefusedError
from app.domain.texts import InvalidTextError, read_json
from app.web.problems import validation_failed

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_BODY_BYTES = 64 * 1024
"""Bytes: far above any request of ours, far below what hurts a worker."""

MAX_BULK_BODY_BYTES = 4 * 1024 * 1024
"""Bytes of a bulk: 10,000 items of some 200 bytes are 2 MiB, with room for agents with a little metadata."""

BODY_LIMITS = {
    "provisionings.start_bulk": MAX_BULK_BODY_BYTES,
    "console.create_bulk": MAX_BULK_BODY_BYTES,
    "console.check_bulk": MAX_BULK_BODY_BYTES,
}
"""Endpoint -> its own limit, bytes."""


BROKEN = "trunkline.broken_body"
"""Set in the WSGI environment of a request whose body does not keep to HTTP."""

FromCsv = Callable[[str], list[object]]
"""How a schema that takes CSV too reads it: into its `items`. A `ValueError` says what is wrong with the whole."""


def with_whole_bodies(application: "WSGIApplication") -> "WSGIApplication":
    """Wrap a WSGI application so that nothing in it meets a body that ends early or is cut into chunks wrongly.

    Whatever reads a body, a view, a form or an error's page, would else have to know what each server raises then.
    """

    def respond(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" in environ:
            _read_whole(environ)
        return application(environ, start_response)

    return respond


def _read_whole(environ: "WSGIEnvironment") -> None:
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    try:
        length = MAX_BULK_BODY_BYTES + 1 if is_chunked else int(environ["CONTENT_LENGTH"])
    except ValueError:
        length = -1
    if length > MAX_BULK_BODY_BYTES + is_chunked or (is_chunked and not environ.get("wsgi.input_terminated")):
        # It is refused by its length alone; or its server cannot tell where it ends, and Werkzeug takes it for empty.
        return
    raw = b""
    try:
        raw = environ["wsgi.input"].read(length) if length >= 0 else b""
        is_broken = length < 0 or (len(raw) < length and not is_chunked)
    except (ParseException, OSError):
        is_broken = True
    if is_broken:
        raw, environ[BROKEN] = b"", True
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ |= {"wsgi.input": BytesIO(raw), "CONTENT_LENGTH": str(len(raw))}


def refuse_broken_body(request: Request) -> None:
    """Raise the 400 for a body that does not keep to HTTP, also on a call that would not read it."""
    if BROKEN in request.environ:
        raise _malformed("ends early, or is not chunked as HTTP/1.1 has it")


def read_body(request: Request) -> bytes:
    """Return the body; raise the 413 for one that is too large.

    Werkzeug cuts a chunked body at its limit without a word (werkzeug wsgi.py LimitedStream.readall), so the limit
    given to it is one byte more than ours.
    """
    raw = request.get_data(cache=True)
    if len(raw) > (limit := body_limit(request)):
        raise too_large(limit)
    return raw


def body_limit(request: Request) -> int:
    """Return how many bytes a body may have on this call."""
    return BODY_LIMITS.get(request.endpoint or "", MAX_BODY_BYTES)


def too_large(limit: int) -> RefusedError:
    """Build the 413."""
    detail = f"The body is larger than {limit} bytes."
    return RefusedError(ErrorCode.REQUEST_TOO_LARGE, detail)


@parser.location_loader("json")
def load_json_object(request: Request, schema: Schema) -> dict[str, object]:
    """Return the body, a JSON object; raise the 400, 413, 415 or 422 that says what is wrong with it.

    Where no field is required the body may be left out.
    """
    if not (request.mimetype or any(field.required for field in schema.fields.values()) or read_body(request)):
        return {}
    from_csv: FromCsv | None = getattr(schema, "from_csv", None)
    if from_csv is not None and request.mimetype == "text/csv":
        _check_encoding(request, "text/csv")
        return {"items": _items(from_csv, read_body(request))}
    _check_encoding(request, "application/json")
    document = parse_json(read_body(request))
    if not isinstance(document, dict):
        raise validation_failed({"body": ["must be a JSON object"]})
    return document


def _items(from_csv: FromCsv, raw: bytes) -> list[object]:
    try:
        return from_csv(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _malformed("is not UTF-8") from error
    except ValueError as error:
        raise validation_failed({"body": [str(error)]}) from error


def _check_encoding(request: Request, mime_type: str) -> None:
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if request.mimetype != mime_type or charset not in {"utf-8", "utf8"} or encoding != "identity":
        detail = f"The body must be {mime_type} in UTF-8, not compressed."
        errors = {"Content-Type": [f"must be {mime_type}"]}
        raise RefusedError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, detail, errors=errors)


def parse_json(raw: bytes) -> object:
    """Read JSON strictly, a byte order mark before it left out; raise the 400 that says what is wrong with it."""
    try:
        return read_json(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _malformed("is not UTF-8") from error
    except InvalidTextError as error:
        raise _malformed(str(error)) from error


def _malformed(message: str) -> RefusedError:
    return RefusedError(ErrorCode.MALFORMED_REQUEST, f"The body {message}.", errors={"body": [message]})
