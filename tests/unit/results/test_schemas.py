"""The types of records and results and their JSON Schemas say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec.inspect as inspect
import pytest
from knbench.benchmark.core.documents import Result
from knbench.benchmark.core.records import CheckpointLine, DriftLine, Record
from knbench.benchmark.results.json_schema import schema

SIMPLE = {
    inspect.StrType: "string",
    inspect.BoolType: "boolean",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
}


def alternatives(node: Mapping[str, Any], root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the alternatives that a schema allows, with references resolved."""
    if "$ref" in node:
        return alternatives(root["$defs"][node["$ref"].rsplit("/", 1)[-1]], root)
    if "anyOf" in node:
        return [found for part in node["anyOf"] for found in alternatives(part, root)]
    if isinstance(node.get("type"), list):
        return [{**node, "type": name} for name in node["type"]]
    if None in node.get("enum", ()):
        return [{"type": "null"}, {**node, "enum": [value for value in node["enum"] if value is not None]}]
    return [node]


def differences(kind: inspect.Type, node: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    """Yield the places where a type and a schema differ."""
    kinds = list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]
    nullable = any(isinstance(k, inspect.NoneType) for k in kinds)
    nodes = alternatives(node, root)
    if nullable != any(n.get("type") == "null" for n in nodes):
        yield f"{at}: null is allowed by one of the two"
    (kind,) = (k for k in kinds if not isinstance(k, inspect.NoneType))
    nodes = [n for n in nodes if n.get("type") != "null"]
    if isinstance(kind, inspect.StructType | inspect.DataclassType):
        yield from object_differences(kind, nodes, root, at)
        return
    if len(nodes) != 1:
        yield f"{at}: the schema has {len(nodes)} alternatives"
        return
    (node,) = nodes
    if isinstance(kind, inspect.VarTupleType):
        if node.get("type") != "array":
            yield f"{at}: not an array in the schema"
        else:
            yield from differences(kind.item_type, node["items"], root, f"{at}/*")
    elif isinstance(kind, inspect.LiteralType):
        if set(node.get("enum", ())) != set(kind.values):
            yield f"{at}: {kind.values} and {node.get('enum')}"
    elif isinstance(kind, inspect.DictType):
        if node.get("type") != "object" or "properties" in node:
            yield f"{at}: not a plain object in the schema"
    elif type(kind) in SIMPLE and not {"const", "enum"} & set(node) and node.get("type") != SIMPLE[type(kind)]:
        yield f"{at}: {SIMPLE[type(kind)]} and {node.get('type')}"


def object_differences(
    kind: inspect.StructType | inspect.DataclassType, nodes: list[Mapping[str, Any]], root: Mapping[str, Any], at: str
) -> Iterator[str]:
    """Yield the places where a struct and the schema's alternatives for it differ."""
    fields = {field.encode_name: field for field in kind.fields}
    properties = {name: rule for node in nodes for name, rule in node["properties"].items()}
    for node in nodes:
        if node.get("additionalProperties", True):
            yield f"{at}: the schema allows additional properties"
    if set(fields) != set(properties):
        yield f"{at}: fields differ: {sorted(set(fields) ^ set(properties))}"
    optional = isinstance(kind, inspect.StructType)  # a dataclass writes its defaults
    required = {name for name, field in fields.items() if field.required or not optional}
    everywhere = set.intersection(*(set(node.get("required", ())) for node in nodes))
    if len(nodes) == 1 and required != everywhere:
        yield f"{at}: required fields differ: {sorted(required ^ everywhere)}"
    for name in set(fields) & set(properties):
        field = fields[name].type
        if not fields[name].required and optional and isinstance(field, inspect.UnionType):
            # An optional field is left out instead of being null.
            (field,) = (k for k in field.types if not isinstance(k, inspect.NoneType))
        yield from differences(field, properties[name], root, f"{at}/{name}")


@pytest.mark.parametrize(
    ("kind", "name"), [(Record, "record"), (CheckpointLine, "checkpoint"), (DriftLine, "drift"), (Result, "result")]
)
def test_types_and_schemas_are_equal(kind, name):
    root = schema(name)
    assert list(differences(inspect.type_info(kind), root, root, "")) == []


def test_a_difference_is_found():
    root = schema("record")
    changed = {**root, "required": [], "properties": {**root["properties"], "index": {"type": "string"}}}
    found = list(differences(inspect.type_info(Record), changed, root, ""))
    assert len(found) == 2
    assert "/index: integer and string" in found
