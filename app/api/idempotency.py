"""Makes a view answer a repeated `Idempotency-Key` with its first answer."""

import hashlib
import re
from collections.abc import Callable
from functools import wraps

from flask import Response, current_app, request
from flask.typing import ResponseReturnValue

from app.api.bodies import read_body
from app.api.context import caller, door
from app.api.documented import note_idempotent
from app.api.preferences import preferred_wait
from app.api.problems import FIRST_SERVER_ERROR, validation_failed
from app.first_answers import Claim, FirstAnswer

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEPT_HEADERS = ("Content-Type", "Location", "Retry-After", "Preference-Applied")
TOO_MANY_REQUESTS = 429

_KEY = re.compile(r"[\x21-\x7e]{1,255}")

View = Callable[..., ResponseReturnValue]


def idempotent(view: View) -> View:
    """Wrap a view: the outermost decorator below the route, so that refusals of the input are kept too."""

    @wraps(view)
    def wrapper(**arguments: object) -> ResponseReturnValue:
        key = request.headers.get(HEADER)
        if key is not None and not _KEY.fullmatch(key):
            raise validation_failed({HEADER: ["must be 1 to 255 visible ASCII characters"]})
        # What writes nothing needs no record, and must not use up the key of the real thing.
        is_dry_run = request.args.get("dryRun") == "true"
        return view(**arguments) if key is None or is_dry_run else _answer_once(key, view, arguments)

    note_idempotent(wrapper)
    return wrapper


def _answer_once(key: str, view: View, arguments: dict[str, object]) -> Response:
    claim = door().first_answers.claim(caller().key_id, key, _request_hash(), extra=preferred_wait(request))
    if isinstance(claim, FirstAnswer):
        return Response(claim.text, claim.status, {**claim.headers, REPLAYED: "true"})
    return _first_answer(claim, view, arguments)


def _first_answer(claim: Claim, view: View, arguments: dict[str, object]) -> Response:
    """Run the view; keep what it answers unless the fault is ours or it came too soon: then it may be sent again."""
    response: Response | None = None
    try:
        response = _run(view, arguments)
    finally:
        if response is None or not _is_kept(response):
            door().first_answers.release(claim)
    if _is_kept(response):
        headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        answer = FirstAnswer(response.status_code, headers, response.get_data(as_text=True))
        door().first_answers.keep(claim, answer)
    return response


def _is_kept(response: Response) -> bool:
    return response.status_code < FIRST_SERVER_ERROR and response.status_code != TOO_MANY_REQUESTS


def _run(view: View, arguments: dict[str, object]) -> Response:
    try:
        return current_app.make_response(view(**arguments))
    except Exception as error:  # noqa: BLE001 - Flask's own dispatch does the same; its handlers log what is unexpected
        return current_app.make_response(current_app.handle_user_exception(error))


def _request_hash() -> str:
    parts = (request.method.encode(), request.path.rstrip("/").encode(), read_body(request))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
