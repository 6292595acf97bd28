"""OpenAPI's description of a channel's stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["describe"]

_CONTROL = ["stream-open", "stream-reset", "stream-lagged", "stream-cursor", "stream-end"]
_COMPONENTS = "#/components/schemas/"
_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}


def describe(adapters: Mapping[str, TypeAdapter[Any]], union: Any) -> dict[int | str, dict[str, Any]]:
    """``responses=`` of a route that streams these events; ``union`` is the union of their types."""
    events = [_event(name, _inlined(adapter)) for name, adapter in adapters.items()]
    items = {"oneOf": [*events, _control()]}
    types = sorted(set().union(*(_types(_inlined(adapter)) for adapter in adapters.values())))
    # FastAPI merges this into its own `{"type": "string"}`, and adds the union.
    whole = {"type": types[0] if len(types) == 1 else types}
    content = {"text/event-stream": {"schema": whole, "itemSchema": items}}
    return {200: {"description": "A stream of server-sent events", "model": union, "content": content}}


def _event(name: str, data: dict[str, Any]) -> dict[str, Any]:
    """An event as FastAPI describes those of its own streams, with its name."""
    return {
        "title": name,
        "type": "object",
        "properties": {
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
            "event": {"type": "string", "const": name},
            "id": {"type": "string"},
            "retry": {"type": "integer", "minimum": 0},
        },
        "required": ["event", "data"],
    }


def _control() -> dict[str, Any]:
    """The hub's own events; docs/protocol.md explains them."""
    return {
        "title": "control",
        "type": "object",
        "properties": {
            "data": {"type": "string"},
            "event": {"type": "string", "enum": _CONTROL},
            "id": {"type": "string"},
            "retry": {"type": "integer", "minimum": 0},
        },
        "required": ["event"],
    }


def _inlined(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """A type's JSON schema without references, which could not be resolved inside the OpenAPI document.

    A model that contains itself refers to FastAPI's component, which has the model's name.
    """
    schema = adapter.json_schema(mode="serialization", ref_template="{model}")
    definitions = schema.pop("$defs", {})

    def inline(node: Any, inside: frozenset[str]) -> Any:
        if isinstance(node, list):
            return [inline(each, inside) for each in node]
        if not isinstance(node, dict):
            return node
        if not isinstance(name := node.get("$ref"), str):
            return {key: inline(value, inside) for key, value in node.items()}
        rest = {key: inline(value, inside) for key, value in node.items() if key != "$ref"}
        if name in inside:
            return {"$ref": _COMPONENTS + name, **rest}
        return {**inline(definitions[name], inside | {name}), **rest}

    inlined: dict[str, Any] = inline(schema, frozenset())
    return inlined


def _types(schema: Mapping[str, Any]) -> set[str]:
    """The types of JSON that a schema allows; all of them if it does not say."""
    if isinstance(kind := schema.get("type"), str):
        return {kind}
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return set().union(*(_types(each) for each in schema[union]))
    return _TYPES
