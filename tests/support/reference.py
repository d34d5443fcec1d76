"""Writes docs/api.md from the OpenAPI document: every call with what it takes and answers, then every body."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

Shape = Mapping[str, Any]

HEAD = """\
# API reference

A running Trunkline shows the same at `/docs` (to try out) and `/openapi.json` (for machines). What to do about a
problem's code: [errors.md](errors.md). What is posted to your own servers: [webhooks.md](webhooks.md).

This page is written from `tests/api/openapi.json`, and a test holds the two equal. After a change of the document:
`UPDATE_API_MD=1 .venv/bin/pytest tests/unit/test_documents.py`.

"""

VERBS = ("post", "get", "patch", "delete")
"""The order of calls under one path."""

LIMITS = {"minLength": "min. length", "maxLength": "max. length", "minimum": "min.", "maximum": "max."}
LIMITS |= {"minItems": "min. items", "maxItems": "max. items", "default": "default"}
"""What OpenAPI calls a limit -> how the page says it."""


def reference_page(document: Shape) -> str:
    """Return the page as Markdown."""
    lines = [HEAD + document["info"]["description"].strip(), ""]
    for tag in document["tags"]:
        lines += [f"## {tag['name']}", ""]
        for path, calls in sorted(document["paths"].items()):
            for verb in (each for each in VERBS if each in calls and calls[each]["tags"] == [tag["name"]]):
                lines += _call(document, f"{verb.upper()} {path}", calls[verb])
    lines += ["## Bodies", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += [f"### {name}", "", *_fields(schema)]
    return "\n".join(lines).rstrip() + "\n"


def _call(document: Shape, title: str, call: Shape) -> list[str]:
    lines = [f"### `{title}`", "", call["summary"], "", *([call["description"], ""] if "description" in call else [])]
    lines += _parameters(document, call["parameters"])
    for mime_type, content in call.get("requestBody", {}).get("content", {}).items():
        lines += [f"Body, `{mime_type}`:" if "$ref" in content["schema"] else f"Or a body of `{mime_type}`.", ""]
        if reference := content["schema"].get("$ref"):
            lines += _fields(_resolve(document, reference))
    answers, problems = [], []
    for status, answer in sorted(call["responses"].items()):
        content = answer.get("content", {})
        if "application/problem+json" in content:
            problems.append(f"{status} {answer['description'].replace('; ', ', ')}")
        else:
            bodies = [_type(each["schema"]) if each["schema"] else f"`{kind}`" for kind, each in content.items()]
            headers = ", ".join(f"`{name}`" for name in answer.get("headers", {}))
            answers.append((status, answer["description"], " or ".join(bodies), headers))
    lines += _table(("answer", "means", "body", "headers"), answers)
    return lines + ([f"Problems: {' · '.join(problems)}", ""] if problems else [])


def _parameters(document: Shape, found: Iterable[Shape]) -> list[str]:
    parameters = [_resolve(document, each["$ref"]) if "$ref" in each else each for each in found]
    rows = [
        (f"`{each['name']}`", each["in"], _type(each["schema"]), each.get("description", "")) for each in parameters
    ]
    return _table(("parameter", "in", "type", "means"), rows) if rows else []


def _fields(schema: Shape) -> list[str]:
    required = schema.get("required", ())
    rows = [
        (f"`{name}`{' (required)' if name in required else ''}", _type(shape), _meaning(shape))
        for name, shape in schema["properties"].items()
    ]
    return _table(("field", "type", "means"), rows)


def _meaning(shape: Shape) -> str:
    examples = [shape["example"]] if "example" in shape else shape.get("examples", [])[:1]
    shown = [f"e.g. `{_json(each)}`" for each in examples if not isinstance(each, (dict, list))]
    return " ".join([*([shape["description"]] if "description" in shape else []), *shown])


def _type(shape: Shape) -> str:
    """Name a type in a few words; a body of ours by a link to it."""
    if "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in shape:
            return " or ".join(_type(each) for each in shape[several])
    if "const" in shape or "enum" in shape:
        return ", ".join(f"`{_json(each)}`" for each in shape.get("enum", [shape.get("const")]))
    words = [shape.get("type", "any")] if isinstance(shape.get("type", "any"), str) else list(shape["type"])
    words = [f"list of {_type(shape['items'])}" if word == "array" else word for word in words]
    limits = [f"{word} {_json(shape[key])}" for key, word in LIMITS.items() if key in shape]
    return ", ".join([" or ".join(words), *([shape["format"]] if "format" in shape else []), *limits])


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _resolve(document: Shape, reference: str) -> Shape:
    _, _, kind, name = reference.split("/")
    found: Shape = document["components"][kind][name]
    return found


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    lines = [
        [" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in [heads, ["---"] * len(heads), *rows]
    ]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
