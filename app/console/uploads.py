"""The file that a person uploads for a bulk, read by the same rules as the API's bodies."""

from codecs import BOM_UTF8

from werkzeug.datastructures import FileStorage, MultiDict

from app.api.bodies import parse_json
from app.api.problems import validation_failed
from app.domain.errors import RefusedError
from app.provisioning.bulk_files import InvalidFileError, items_of_csv, items_of_document
from app.provisioning.bulk_items import Item, read_items

FIELD = "file"


def read_bulk_file(given: MultiDict[str, FileStorage]) -> list[Item]:
    """Read the file's items: JSON where its name ends so, else CSV; `RefusedError` 422 for what is neither."""
    upload = given.get(FIELD)
    if upload is None or not upload.filename:
        raise validation_failed({FIELD: ["Choose a file."]})
    is_json, raw = upload.filename.lower().endswith(".json"), upload.read().removeprefix(BOM_UTF8)
    try:
        return read_items(items_of_document(parse_json(raw)) if is_json else items_of_csv(raw.decode()))
    except UnicodeDecodeError as error:
        raise _unreadable("is not UTF-8: save it as CSV UTF-8") from error
    except InvalidFileError as error:
        raise _unreadable(str(error)) from error
    except RefusedError as error:
        raise _unreadable(*error.errors["body"]) from error


def _unreadable(message: str) -> RefusedError:
    return validation_failed({FIELD: [f"The file {message}."]})
