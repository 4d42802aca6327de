"""The form of an answer: what a type becomes for the model, and how the model's text becomes a value again."""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import msgspec
import pydantic
import pytest

from kitaru.adapters import Message
from kitaru.errors import AnswerError, UsageError
from kitaru.runtime.calls.answers import Form, form_of
from kitaru.store import codec

T = TypeVar("T")


class Mood(enum.Enum):
    GLAD = "glad"
    SAD = "sad"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Address:
    """Where somebody lives.

    Attributes:
        street: With its number.
    """

    street: str
    city: str = "Berlin"


@dataclass
class Person:
    name: Annotated[str, "First and last"]
    age: int
    home: Address | None = None
    tags: list[str] = field(default_factory=list)


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Item(msgspec.Struct, rename="camel"):
    item_name: str
    price: decimal.Decimal
    count: Annotated[int, msgspec.Meta(ge=1, description="How many")] = 1


class Circle(msgspec.Struct, tag=True):
    radius: float


class Square(msgspec.Struct, tag=True):
    side: float


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Model(pydantic.BaseModel):
    name: str
    size: int = pydantic.Field(ge=1, description="In metres")
    when: datetime.date | None = None


@pydantic.dataclasses.dataclass
class Checked:
    count: pydantic.PositiveInt


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list)


@dataclass
class Small:
    x: int


@dataclass
class Large:
    x: int
    y: int = 0


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Mixed:
    """Everything at once."""

    model: Model
    point: Point
    either: Small | Large | Model | None
    movies: dict[str, Movie]
    moods: set[Mood]
    pair: tuple[int, str]
    items: tuple[Item, ...] = ()


@dataclass
class Strict:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is below zero")


Meters = NewType("Meters", float)
DAY = datetime.date(2026, 1, 2)
AN_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def form(response_type: object) -> Form:
    found = form_of(response_type)
    assert found is not None
    return found


CASES: list[tuple[object, str, object]] = [
    (Person, '{"name": "Ann", "age": 3}', Person("Ann", 3)),
    (
        Person,
        '{"name": "Ann", "age": 3, "home": {"street": "S 1"}, "tags": ["a"]}',
        Person("Ann", 3, Address("S 1"), ["a"]),
    ),
    (Item, '{"itemName": "tea", "price": "1.10", "count": 2}', Item("tea", decimal.Decimal("1.10"), 2)),
    (Point, '{"x": 1, "y": 2.5}', Point(1, 2.5)),
    (Movie, '{"title": "M"}', {"title": "M"}),
    (Model, '{"name": "a", "size": 2, "when": "2026-01-02"}', Model(name="a", size=2, when=DAY)),
    (Checked, '{"count": 2}', Checked(count=2)),
    (Node, '{"value": 1, "children": [{"value": 2}]}', Node(1, [Node(2)])),
    (Box[Point], '{"content": {"x": 1.0}}', Box(Point(1.0))),
    (Mood, '"sad"', Mood.SAD),
    (Level, "2", Level.HIGH),
    (list[Person], '[{"name": "Ann", "age": 3}]', [Person("Ann", 3)]),
    (dict[str, int], '{"a": 1}', {"a": 1}),
    (dict[int, Point], '{"1": {"x": 2.0}}', {1: Point(2.0)}),
    (set[int], "[1, 2, 1]", {1, 2}),
    (frozenset[str], '["a"]', frozenset({"a"})),
    (tuple[int, ...], "[1, 2]", (1, 2)),
    (tuple[int, Point], '[1, {"x": 2.0}]', (1, Point(2.0))),
    (collections.abc.Sequence[int], "[1]", [1]),
    (int | str, '"5"', "5"),
    (int | None, "null", None),
    (Literal["a", "b"], '"b"', "b"),
    (float, "3", 3.0),
    (bool, "true", True),
    (bytes, '"eA=="', b"x"),
    (Meters, "1.5", 1.5),
    (datetime.datetime, '"2026-01-02T03:04:05"', datetime.datetime(2026, 1, 2, 3, 4, 5)),
    (datetime.timedelta, '"PT5S"', datetime.timedelta(seconds=5)),
    (uuid.UUID, f'"{AN_ID}"', AN_ID),
    (decimal.Decimal, '"1.50"', decimal.Decimal("1.50")),
    (Circle | Square, '{"type": "Square", "side": 2.0}', Square(2.0)),
    (Small | Large, '{"x": 1}', Small(1)),
    (Small | Large, '{"x": 1, "y": 2}', Large(1, 2)),
    (list[Small | Model], '[{"name": "a", "size": 1}, {"x": 1}]', [Model(name="a", size=1), Small(1)]),
    (Any, '{"a": [1]}', {"a": [1]}),
    (dict, '{"a": [1]}', {"a": [1]}),
    (
        Mixed,
        """{"model": {"name": "a", "size": 1}, "point": {"x": 1.0, "y": 2.0}, "either": {"x": 1, "y": 2},
            "movies": {"m": {"title": "M", "year": 1}}, "moods": ["sad", "glad"], "pair": [1, "a"],
            "items": [{"itemName": "tea", "price": "1"}]}""",
        Mixed(
            Model(name="a", size=1), Point(1.0, 2.0), Large(1, 2), {"m": {"title": "M", "year": 1}},
            {Mood.SAD, Mood.GLAD}, (1, "a"), (Item("tea", decimal.Decimal(1)),),
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("response_type", "text", "value"), CASES)
def test_an_answer_is_read_as_its_type_and_survives_the_log(response_type: object, text: str, value: object) -> None:
    asked = form(response_type)
    found = asked.read(text, wrapped=False)
    assert found == value
    assert type(found) is type(value)
    again = codec.decoder(asked.type)(codec.encode(found))
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize(("response_type", "text", "value"), CASES)
def test_a_wrapped_answer_is_read_alike(response_type: object, text: str, value: object) -> None:
    assert form(response_type).read(f'{{"value": {text}}}', wrapped=True) == value
    assert form(response_type).read(text, wrapped=True) == value


@pytest.mark.parametrize(("response_type", "text", "value"), CASES)
def test_json_is_found_in_a_fence_and_between_words(response_type: object, text: str, value: object) -> None:
    asked = form(response_type)
    wrapped = f'{{"value": {text}}}'
    for around in (
        f"```json\n{wrapped}\n```",
        f"Sure [1]! Here {{}} it is:\n{wrapped}\nAnything else?",
        f"```{wrapped}```",
    ):
        assert asked.read(around, wrapped=True) == value


# ---- the schema -----------------------------------------------------------------------------------------------------


def test_descriptions_come_from_docstrings_and_annotations() -> None:
    schema: Any = form(Person).schema
    assert schema["properties"]["name"] == {"type": "string", "description": "First and last"}
    address = schema["$defs"]["Address"]
    assert address["description"] == "Where somebody lives."
    assert address["properties"]["street"]["description"] == "With its number."
    assert address["properties"]["city"]["default"] == "Berlin"
    assert schema["required"] == ["name", "age"]
    item: Any = form(Item).schema
    assert item["properties"]["count"]["description"] == "How many"
    assert item["properties"]["count"]["minimum"] == 1
    assert "itemName" in item["properties"]
    model: Any = form(Model).schema
    assert model["properties"]["size"]["description"] == "In metres"


def test_a_named_tuple_is_an_object_with_names() -> None:
    schema: Any = form(Point).schema
    assert schema["type"] == "object"
    assert schema["required"] == ["x"]


def test_a_tag_is_part_of_the_schema() -> None:
    schema: Any = form(Circle | Square).schema
    assert schema["$defs"]["Circle"]["properties"]["type"] == {"type": "string", "enum": ["Circle"]}
    assert schema["$defs"]["Circle"]["required"] == ["type", "radius"]


def test_two_classes_of_one_name_get_two_definitions() -> None:
    def made(kind: type) -> type:
        return dataclass(type("Same", (), {"__annotations__": {"x": kind}}))

    asked = form(tuple[made(int), made(str)])  # type: ignore[misc]  # classes made at run time
    schema: Any = asked.schema
    assert sorted(schema["$defs"]) == ["Same", "Same_2"]
    found: Any = asked.read('[{"x": 1}, {"x": "a"}]', wrapped=False)
    assert (found[0].x, found[1].x) == (1, "a")


# ---- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response_type", "text", "said"),
    [
        (Person, '{"name": "Ann", "age": "old"}', "age: Expected `int`, got `str`"),
        (Person, '{"name": 1}', "age is missing; name: Expected `str`, got `int`"),
        (Person, '{"name": "A", "age": 1, "home": {"street": 5}}', "home.street: Expected `str`"),
        (list[Person], '[{"name": "A", "age": 1}, {"name": "B"}]', "[1].age is missing"),
        (Person, "[1]", "the value should be an object, not array"),
        (Model, '{"name": "a", "size": 0}', "size: Input should be greater than or equal to 1"),
        (list[Model], '[{"name": "a"}]', "[0].size: Field required"),
        (Mood, '"angry"', 'is none of "glad","sad"'),
        (Circle, '{"type": "Square", "radius": 1.0}', "type should be 'Circle'"),
        (Closed, '{"a": 1, "b": 2}', "has no field 'b'"),
        (Strict, '{"x": -1}', "is refused by Strict: x is below zero"),
        (Small | Point, '{"z": 1}', "fits none of Small, Point"),
        (tuple[int, str], "[1]", "an array of 2 items"),
        (Annotated[list[int], msgspec.Meta(min_length=2)], "[1]", "length"),
        (dict[str, int], '{"a": "x"}', "['a']: Expected `int`"),
        (int, "", "the answer is empty"),
        (int, "I do not know", "holds no JSON"),
        (Person, '{"name": "Ann", "age": 3', "holds no JSON"),
        (Person, "[" * 100_000, "the answer holds no JSON"),
        (Person, '{"name": "\\ud800", "age": NaN}', "holds no JSON"),
    ],
)
def test_an_answer_that_does_not_fit_says_what_and_where_and_how_it_begins(
    response_type: object, text: str, said: str
) -> None:
    with pytest.raises(AnswerError) as caught:
        form(response_type).read(text, wrapped=False)
    assert said in caught.value.message
    assert len(caught.value.message) < 800
    if text:
        assert "; the answer begins: " in caught.value.message


@dataclass
class Add:
    left: Add | Times | int
    right: Add | Times | int


@dataclass
class Times:
    left: Add | Times | int
    right: Add | Times | int


@pytest.mark.parametrize("leaf", ["1", '"x"'])
def test_a_union_that_contains_itself_is_read_without_trying_every_way_through_it(leaf: str) -> None:
    text = '{"right": 0, "left": ' * 60 + leaf + "}" * 60
    if leaf == "1":
        assert isinstance(form(Add).read(text, wrapped=False), Add)
    else:
        with pytest.raises(AnswerError, match="fits none of"):
            form(Add).read(text, wrapped=False)


def test_a_null_for_what_may_be_left_out_counts_as_left_out() -> None:
    text = '{"name": "Ann", "age": 3, "home": null, "tags": null}'
    assert form(Person).read(text, wrapped=False) == Person("Ann", 3)
    assert form(Item).read('{"itemName": "a", "price": "1", "count": null}', wrapped=False) == Item(
        "a", decimal.Decimal(1)
    )


def test_a_number_given_as_text_is_taken_where_nothing_else_fits() -> None:
    assert form(Person).read('{"name": "Ann", "age": "3"}', wrapped=False) == Person("Ann", 3)
    assert form(int | str).read('"3"', wrapped=False) == "3"


def test_a_repair_shows_the_answer_and_says_what_was_wrong_with_it() -> None:
    asked = form(Person)
    text = '{"name": "Ann"}'
    with pytest.raises(AnswerError) as caught:
        asked.read(text, wrapped=False)
    said, told = asked.repair(text, caught.value)
    assert said == Message("assistant", text)
    assert told.role == "user"
    assert "age is missing" in told.text
    assert text not in told.text


def test_a_repair_of_an_empty_answer_has_no_empty_turn() -> None:
    (told,) = form(Person).repair(" ", AnswerError("the answer is empty"))
    assert told.role == "user"


# ---- JSON without a type --------------------------------------------------------------------------------------------


def test_any_object_will_do_for_json() -> None:
    asked = form_of(json=True)
    assert asked is not None
    assert asked.read('```json\n{"a": 1}\n```', wrapped=False) == {"a": 1}
    with pytest.raises(AnswerError, match="it is a JSON array"):
        asked.read("[1]", wrapped=False)


def test_a_missing_key_is_an_error_that_shows_the_answer() -> None:
    asked = form_of(json_keys=["title", "body", "tags"])
    assert asked is not None
    assert asked.output().kind == "json"
    answer = '{"title": "a", "body": "b", "tags": [], "more": 1}'
    assert asked.read(answer, wrapped=False) == {"title": "a", "body": "b", "tags": [], "more": 1}
    with pytest.raises(AnswerError, match="the keys 'body', 'tags' are missing") as caught:
        asked.read('{"title": "a"}', wrapped=False)
    assert '{"title": "a"}' in caught.value.message


@pytest.mark.parametrize("response_type", [None, str, type(None)])
def test_text_has_no_form(response_type: object) -> None:
    assert form_of(response_type) is None


# ---- mistakes -------------------------------------------------------------------------------------------------------


class Plain:
    pass


@dataclass
class HoldsPlain:
    inner: list[Plain]


class HoldsSecret(pydantic.BaseModel):
    key: pydantic.SecretStr


class Wide(enum.Enum):
    A = (1, 2)


@pytest.mark.parametrize(
    ("response_type", "named"),
    [
        (Plain, "Plain"),
        (HoldsPlain, "Plain"),
        (HoldsSecret, "SecretStr"),
        (Wide, "Wide"),
        (complex, "complex"),
        (list[Plain | int], "Plain"),
        (collections.abc.Callable[[int], int], "Callable"),
        (lambda: 1, "lambda"),
        (5, "5"),
    ],
)
def test_a_type_that_cannot_be_json_or_recorded_is_refused_by_name(response_type: object, named: str) -> None:
    with pytest.raises(UsageError, match="response_type cannot be") as caught:
        form_of(response_type)
    assert named in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"response_type": Person, "json": True},
        {"response_type": Person, "json_keys": ["a"]},
        {"response_type": str, "json": True},
        {"response_type": "Person"},
        {"json_keys": []},
        {"json_keys": "title"},
        {"json_keys": [1]},
    ],
)
def test_what_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        form_of(**wrong)


# ---- the fingerprint ------------------------------------------------------------------------------------------------


def test_a_description_tells_forms_apart_and_equal_ones_alike() -> None:
    forms = [form_of(json=True), form_of(json_keys=["a"]), form(Person), form(list[Person]), form(Item)]
    described = [one.describe() for one in forms if one is not None]
    assert len({codec.canonical(one) for one in described}) == len(described)
    assert form(Person).describe() == form(Person).describe()
    assert form(int | str).describe() != form(str | int).describe()


def test_a_description_is_the_same_in_every_process() -> None:
    code = (
        "from tests.runtime.test_answers import *; from kitaru.store import codec;"
        "print([codec.canonical(form(one[0]).describe()).hex() for one in CASES])"
    )
    outs = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outs) == 1


def test_the_output_of_a_form_has_a_name_that_schemas_may_have() -> None:
    names = [form(one).output().name for one in (Person, Box[Point], list[int], int | str, Literal["a"])]
    assert names == ["Person", "Box", "list", "answer", "answer"]


# -- what a model wrote around, or into, its JSON ---------------------------------------------------------------------

STREET = '{"street": "Main St 1", "city": "Oslo"}'


@pytest.mark.parametrize(
    "text",
    [
        f'Perhaps {{"street": "A very long street that was a draft 99", "city": "Rome"}}? No: {STREET}',
        f'```json\n{{"street": "a draft", "city": "Rome"}}\n```\nBetter:\n```json\n{STREET}\n```',
        f'```json\n{{"street": "a draft", "city": "Rome"}}\n```\nBetter: {STREET}',
    ],
)
def test_of_several_values_that_fit_the_last_one_counts(text: str) -> None:
    assert form(Address).read(text, wrapped=False) == Address("Main St 1", "Oslo")


@pytest.mark.parametrize(
    ("text", "street"),
    [
        ('{"street": "Main\nSt 1", "city": "Oslo"}', "Main\nSt 1"),
        ('{"street": "Main, ]St\t1", "city": "Oslo",}', "Main, ]St\t1"),
        ('[{"street": "Main St 1", "city": "Oslo"}]', "Main St 1"),
        (msgspec.json.encode(STREET).decode(), "Main St 1"),
        ('Here: {"street": "Main St 1",\n "city": "Oslo",\n}', "Main St 1"),
    ],
)
def test_json_that_only_a_lenient_reader_takes_costs_no_repair(text: str, street: str) -> None:
    assert form(Address).read(text, wrapped=False) == Address(street, "Oslo")


def test_a_list_of_one_stays_a_list_where_a_list_is_wanted() -> None:
    assert form(list[Address]).read(f"[{STREET}]", wrapped=False) == [Address("Main St 1", "Oslo")]


def test_whatever_the_checks_of_a_type_raise_the_answer_is_unusable() -> None:
    @dataclass
    class Strict:
        city: str

        def __post_init__(self) -> None:
            sys.exit(3)

    with pytest.raises(AnswerError, match="refuses it: SystemExit"):
        form(Strict).read('{"city": "Oslo"}', wrapped=False)
