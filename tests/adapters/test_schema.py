"""JSON schemas rewritten for providers, and their answers read back in terms of the original."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.adapters.schema import Dialect, rewrite
from kitaru.adapters.schema.answers import unwrapped, without_nulls

DIALECTS: tuple[Dialect, ...] = ("closed", "open", "google", "anthropic")

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "Full name", "minLength": 2},
        "age": {"type": "integer", "minimum": 0, "default": 18},
        "home": {"$ref": "#/$defs/Address", "description": "Where they live"},
        "other": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}], "default": None},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["name", "home", "kind"],
    "$defs": {
        "Address": {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]},
        "Unused": {"type": "string"},
    },
}
TREE: dict[str, Any] = {
    "$ref": "#/$defs/Tree",
    "$defs": {
        "Tree": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
            },
            "required": ["value"],
        }
    },
}


def nodes(schema: object) -> Iterator[dict[str, Any]]:
    """Every schema within a schema."""
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key in ("properties", "$defs"):
                for part in value.values():
                    yield from nodes(part)
            elif key in ("items", "additionalProperties"):
                yield from nodes(value)
            elif key in ("anyOf", "prefixItems"):
                for part in value:
                    yield from nodes(part)


def test_closed_objects_hold_all_their_properties_and_nothing_else() -> None:
    found = rewrite(PERSON, "closed")
    assert found.strict
    assert not found.wrapped
    for node in nodes(found.schema):
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])


def test_an_optional_property_becomes_nullable_and_a_nullable_one_stays_as_it_is() -> None:
    properties: Any = rewrite(PERSON, "closed").schema["properties"]
    assert properties["age"]["anyOf"][1] == {"type": "null"}
    assert properties["other"] == {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}]}
    assert "anyOf" not in properties["name"]


def test_what_a_strict_mode_has_no_word_for_is_said_in_the_description() -> None:
    properties: Any = rewrite(PERSON, "closed").schema["properties"]
    assert properties["name"] == {"type": "string", "description": "Full name (minLength: 2)"}
    assert properties["age"]["anyOf"][0] == {"type": "integer", "description": "(minimum: 0, default: 18)"}


def test_limits_that_a_provider_takes_stay_limits() -> None:
    found = rewrite(PERSON, "closed", keywords=frozenset({"minimum"}))
    properties: Any = found.schema["properties"]
    assert properties["age"]["anyOf"][0] == {"type": "integer", "minimum": 0, "description": "(default: 18)"}


def test_nothing_stands_beside_a_reference_and_unused_definitions_go() -> None:
    found: Any = rewrite(PERSON, "closed").schema
    assert found["properties"]["home"] == {
        "description": "Where they live",
        "type": "object",
        "properties": {"street": {"type": "string"}},
        "required": ["street"],
        "additionalProperties": False,
    }
    assert list(found["$defs"]) == ["Address"]
    assert all(list(node) == ["$ref"] for node in nodes(found) if "$ref" in node)


def test_fixed_values_get_a_type() -> None:
    def one(schema: dict[str, Any]) -> Any:
        whole: Any = rewrite({"type": "object", "properties": {"x": schema}, "required": ["x"]}, "closed").schema
        return whole["properties"]["x"]

    assert one({"enum": ["a", "b"]}) == {"type": "string", "enum": ["a", "b"]}
    assert one({"const": 3}) == {"type": "integer", "enum": [3]}
    assert one({"enum": ["a", None]}) == {"type": ["string", "null"], "enum": ["a", None]}


def test_a_class_that_contains_itself_is_strict_with_an_object_at_the_root() -> None:
    found: Any = rewrite(TREE, "closed")
    assert found.strict
    assert found.schema["type"] == "object"
    assert found.schema["$defs"]["Tree"]["properties"]["children"]["anyOf"][0]["items"] == {"$ref": "#/$defs/Tree"}


def test_a_reference_to_the_root_gets_a_name() -> None:
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    found: Any = rewrite(schema, "closed").schema
    assert found["properties"]["next"] == {"anyOf": [{"$ref": "#/$defs/Root"}, {"type": "null"}]}
    assert found["$defs"]["Root"]["properties"]["next"]["anyOf"][0] == {"$ref": "#/$defs/Root"}


def test_older_definitions_are_found() -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"$ref": "#/definitions/X"}},
        "required": ["x"],
        "definitions": {"X": {"type": "string"}},
    }
    found = rewrite(schema, "closed")
    assert found.strict
    assert found.schema["$defs"] == {"X": {"type": "string"}}


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"type": "object"}, "free keys"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "free keys"),
        ({"type": "object", "properties": {}, "patternProperties": {"^x": {}}}, "patternProperties"),
        ({"allOf": [{"type": "string"}, {"minLength": 2}]}, "allOf"),
        ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]}, "tuple"),
        ({"type": "array"}, "anything"),
        ({}, "anything"),
        (True, "anything"),
        ({"$ref": "https://example.org/x.json"}, "another document"),
        ({"type": "string", "not": {"const": "x"}}, "not"),
        ({"enum": [{"a": 1}]}, "no scalar"),
    ],
)
@pytest.mark.parametrize("dialect", ["closed", "anthropic"])
def test_what_cannot_be_promised_goes_as_it_is_and_says_why(part: object, why: str, dialect: Dialect) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"x": part}, "required": ["x"]}
    found = rewrite(schema, dialect)
    assert not found.strict
    assert why in found.why
    assert found.schema == schema


def test_only_a_tagged_one_of_can_be_promised_by_openai_any_by_anthropic() -> None:
    branches = [{"type": "string"}, {"type": "integer"}]
    assert not rewrite({"oneOf": branches}, "closed").strict
    assert rewrite({"oneOf": branches}, "anthropic").strict
    schema = {"oneOf": branches, "discriminator": {"propertyName": "type"}}
    found: Any = rewrite(schema, "closed")
    assert found.strict
    assert found.schema["properties"]["value"] == {"anyOf": branches}


def test_a_tuple_of_one_type_is_an_array() -> None:
    items = {"type": "array", "prefixItems": [{"type": "number"}] * 2, "minItems": 2, "maxItems": 2, "items": False}
    found: Any = rewrite(items, "closed", keywords=frozenset({"minItems", "maxItems"}))
    assert found.strict
    assert found.schema["properties"]["value"] == {
        "type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2,
    }  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "string"}},
        {"type": "string"},
        {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}], "$defs": {"A": {"type": "object", "properties": {}}}},
    ],
)
def test_what_is_no_object_is_wrapped_in_one(schema: dict[str, Any], dialect: Dialect) -> None:
    found: Any = rewrite(schema, dialect)
    assert found.wrapped
    assert found.schema["type"] == "object"
    assert list(found.schema["properties"]) == ["value"]
    assert found.schema["required"] == ["value"]


def test_a_tools_arguments_are_never_wrapped() -> None:
    assert not rewrite({"type": "object", "properties": {}}, "closed", wrap=False).wrapped


def test_a_wrapped_value_is_unwrapped_and_another_left_alone() -> None:
    assert unwrapped({"value": [1]}) == [1]
    assert unwrapped({"value": 1, "more": 2}) == {"value": 1, "more": 2}
    assert unwrapped([1]) == [1]


def test_anthropic_keeps_optional_properties_optional_and_refuses_recursion() -> None:
    found: Any = rewrite(PERSON, "anthropic")
    assert found.strict
    assert found.schema["required"] == ["name", "home", "kind"]
    assert not rewrite(TREE, "anthropic").strict
    assert rewrite(TREE, "anthropic").why == "recursion"


def test_google_gets_references_written_out_and_only_what_it_knows() -> None:
    found = rewrite(PERSON, "google")
    assert found.strict
    assert "$defs" not in found.schema
    for node in nodes(found.schema):
        # google-genai SDK `types.py`, `GenerateContentConfig.response_json_schema`.
        assert node.keys() <= {
            "$defs", "$ref", "type", "format", "title", "description", "enum", "items", "prefixItems", "minItems",
            "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required",
        }  # fmt: skip
    properties: Any = found.schema["properties"]
    assert properties["home"]["properties"] == {"street": {"type": "string"}}
    assert properties["age"]["minimum"] == 0
    assert properties["name"]["description"] == "Full name (minLength: 2)"


def test_google_keeps_a_recursive_reference_with_nothing_beside_it() -> None:
    found: Any = rewrite(TREE, "google").schema
    assert found["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert all(list(node) == ["$ref"] for node in nodes(found) if "$ref" in node)


def test_google_takes_enumerations_of_texts_and_numbers_only() -> None:
    schema = {"type": "object", "properties": {"x": {"enum": ["a", None, True]}, "y": {"const": "z"}}}
    properties: Any = rewrite(schema, "google").schema["properties"]
    assert properties["x"] == {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}, {"type": "boolean"}]}
    assert properties["y"] == {"type": "string", "enum": ["z"]}


def test_definitions_that_use_each_other_do_not_explode() -> None:
    defs: dict[str, Any] = {"D40": {"type": "string"}}
    for number in range(40):
        ref = {"$ref": f"#/$defs/D{number + 1}"}
        defs[f"D{number}"] = {"type": "object", "properties": {"a": ref, "b": ref}, "required": ["a", "b"]}
    for dialect in DIALECTS:
        found = rewrite({"$ref": "#/$defs/D0", "$defs": defs}, dialect)
        assert len(msgspec.json.encode(found.schema)) < 200_000


def test_a_schema_nested_too_deeply_goes_as_it_is() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(3000):
        schema = {"type": "array", "items": schema}
    whole = {"type": "object", "properties": {"x": schema}}
    assert not rewrite(whole, "closed").strict


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_schema_given_is_not_changed_and_the_result_is_the_same_each_time(dialect: Dialect) -> None:
    before = copy.deepcopy(PERSON)
    first = msgspec.json.encode(rewrite(PERSON, dialect).schema)
    assert first == msgspec.json.encode(rewrite(copy.deepcopy(PERSON), dialect).schema)
    assert before == PERSON


@pytest.mark.parametrize("dialect", ["closed", "open", "anthropic"])
def test_rewriting_twice_is_rewriting_once(dialect: Dialect) -> None:
    for schema in (PERSON, TREE):
        once = rewrite(schema, dialect)
        if once.strict:
            assert rewrite(once.schema, dialect).schema == once.schema


# ---- beside the SDKs ------------------------------------------------------------------------------------------------


class Line(pydantic.BaseModel):
    """One line."""

    text: str
    weight: float


class Poem(pydantic.BaseModel):
    title: str
    lines: list[Line]
    mood: str | None


def plain(schema: object) -> object:
    """A schema without the order of its keys, without titles."""
    if isinstance(schema, dict):
        return {key: plain(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return [plain(item) for item in schema] if isinstance(schema, list) else schema


def test_a_closed_schema_is_what_the_openai_sdk_makes_of_the_same_model() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from openai.lib._pydantic import to_strict_json_schema

        theirs = to_strict_json_schema(Poem)
    assert plain(rewrite(Poem.model_json_schema(), "closed").schema) == plain(theirs)


def test_anthropics_schema_is_what_its_sdk_makes_of_the_same_model() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anthropic import transform_schema

        theirs = transform_schema(Poem)
    assert plain(rewrite(Poem.model_json_schema(), "anthropic").schema) == plain(theirs)


# ---- the way back ---------------------------------------------------------------------------------------------------


def test_a_null_that_stands_for_left_out_is_taken_away() -> None:
    answer = {"name": "Ann", "age": None, "home": {"street": "x"}, "other": None, "kind": "a"}
    assert without_nulls(answer, PERSON) == {"name": "Ann", "home": {"street": "x"}, "other": None, "kind": "a"}


def test_a_null_for_a_required_property_is_left_for_decoding_to_refuse() -> None:
    assert without_nulls({"name": None}, PERSON) == {"name": None}


def test_a_null_deep_inside_is_taken_away() -> None:
    answer = {"value": 1, "children": [{"value": 2, "children": None}]}
    assert without_nulls(answer, TREE) == {"value": 1, "children": [{"value": 2}]}


def test_in_a_union_the_branch_that_the_tag_names_decides() -> None:
    def branch(tag: str, x: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "properties": {"type": {"const": tag}, "x": x}, "required": ["type"]}

    schema = {"anyOf": [branch("a", {"type": "integer"}), branch("b", {"type": ["integer", "null"]})]}
    assert without_nulls({"type": "a", "x": None}, schema) == {"type": "a"}
    assert without_nulls({"type": "b", "x": None}, schema) == {"type": "b", "x": None}


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    scalar: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
        [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"enum": ["a", "b"]}]
    )

    def larger(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        names = st.dictionaries(st.sampled_from("pqrs"), st.tuples(inner, st.booleans()), max_size=4)
        objects = names.map(
            lambda fields: {
                "type": "object",
                "properties": {name: schema for name, (schema, _) in fields.items()},
                "required": [name for name, (_, needed) in fields.items() if needed],
            }
        )
        arrays = inner.map(lambda schema: {"type": "array", "items": schema})
        nullable = inner.map(lambda schema: {"anyOf": [schema, {"type": "null"}]})
        return objects | arrays | nullable

    return st.recursive(scalar, larger, max_leaves=8)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema describes, optional properties sometimes left out."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*(values(one) for one in schema["anyOf"]))
    match schema["type"]:
        case "string":
            return st.text(max_size=3)
        case "integer":
            return st.integers(-5, 5)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            return st.lists(values(schema["items"]), max_size=2)
    needed = {name: values(part) for name, part in schema["properties"].items() if name in schema["required"]}
    others = {name: values(part) for name, part in schema["properties"].items() if name not in schema["required"]}
    return st.fixed_dictionaries(needed, optional=others)


def completed(value: Any, schema: dict[str, Any]) -> Any:
    """A value as a strict mode has it: with null for every property that was left out."""
    if "anyOf" in schema:
        return value if value is None else completed(value, schema["anyOf"][0])
    if schema.get("type") == "array":
        return [completed(item, schema["items"]) for item in value]
    if schema.get("type") == "object":
        parts = schema["properties"]
        return {name: completed(value[name], part) if name in value else None for name, part in parts.items()}
    return value


def nullable(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "null" or any(map(nullable, schema.get("anyOf", ())))


def settled(value: Any, schema: dict[str, Any]) -> Any:
    """A value in which a nullable property that was left out is null: the two cannot be told apart."""
    if "anyOf" in schema:
        return value if value is None else settled(value, schema["anyOf"][0])
    if schema.get("type") == "array":
        return [settled(item, schema["items"]) for item in value]
    if schema.get("type") == "object":
        kept = {}
        for name, part in schema["properties"].items():
            if name in value:
                kept[name] = settled(value[name], part)
            elif nullable(part):
                kept[name] = None
        return kept
    return value


@given(st.data())
def test_law_what_strictness_adds_is_taken_away_again(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    value = data.draw(values(schema))
    assert rewrite(schema, "closed").strict
    assert without_nulls(completed(value, schema), schema) == settled(value, schema)
