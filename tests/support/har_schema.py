"""The JSON schemas of HAR 1.2 as a judge."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft6Validator, FormatChecker
from referencing import Registry, Resource

SCHEMAS = Path(__file__).resolve().parents[1] / "exporters" / "har_schema"


@cache
def validator() -> Draft6Validator:
    """The validator of a whole archive."""
    schemas = {path.name: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    registry = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in schemas.items()
    )
    return Draft6Validator(schemas["har.json"], registry=registry, format_checker=FormatChecker())


def problems(archive: dict[str, Any]) -> list[str]:
    """What the schema objects to, with the place."""
    return [f"{error.json_path}: {error.message}" for error in validator().iter_errors(archive)]
