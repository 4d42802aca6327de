from __future__ import annotations

import dataclasses
import enum
import functools
import importlib.util
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import msgspec
import pydantic
import pytest

from kitaru.errors import DecodeError, UsageError
from kitaru.store.codec import canonical, decoder, encode, portable_module, register_main_alias

T = TypeVar("T")


@dataclass
class Cat:
    name: str
    lives: int = 9
    log: list[str] = field(default_factory=list)
    seen: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        raise AssertionError("ran when decoding")


@dataclass
class Dog:
    name: str


class Node(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    raw: bytes = b""
    data: Any = None
    children: list[Node] = []
    _secret: int = pydantic.PrivateAttr(default=1)

    @pydantic.field_validator("name")
    @classmethod
    def _lower(cls, name: str) -> str:
        return name.lower()

    @functools.cached_property
    def size(self) -> int:
        return len(self.children)


class Strict(pydantic.BaseModel, frozen=True):
    url: pydantic.HttpUrl
    count: int = 0


class Envelope(pydantic.BaseModel, Generic[T]):
    item: T


def blank(cls: type, **fields: object) -> Any:
    """An instance that was made without the constructor."""
    made: Any = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


@pytest.fixture
def load(tmp_path: Path) -> Iterator[typing.Callable[..., ModuleType]]:
    """Loads source under a module name, and forgets it afterwards."""
    loaded: list[str] = []
    main = dict(vars(sys.modules["__main__"]))

    def load(name: str, source: str) -> ModuleType:
        path = tmp_path / f"{name}_{len(loaded)}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        sys.modules.pop(name, None)
    for name in set(vars(sys.modules["__main__"])) - set(main):
        delattr(sys.modules["__main__"], name)


PAGE = "from dataclasses import dataclass\n@dataclass\nclass Page:\n    title: str\n"


def test_neither_constructor_nor_post_init_runs() -> None:
    cat = blank(Cat, name="Tom", lives=3, log=["x"], seen=[1])
    again = decoder()(encode([cat, cat]))
    assert again == [cat, cat]


def test_a_structs_post_init_does_not_run(load: Any) -> None:
    module = load(
        "post",
        "import msgspec\nran = []\n"
        "class A(msgspec.Struct, frozen=True, tag=True):\n"
        "    x: int\n    y: list = []\n"
        "    def __post_init__(self): ran.append(1)\n"
        "class B(msgspec.Struct, dict=True, weakref=True, kw_only=True, array_like=True, order=True):\n"
        "    x: int\n"
        "    def __post_init__(self): ran.append(1)\n",
    )
    values = [module.A(1, [2]), module.B(x=3)]
    values[1].more = (4,)
    module.ran.clear()
    again = decoder()(encode(values))
    assert again == values
    assert isinstance(again, list)
    assert [type(value) for value in again] == [module.A, module.B]
    assert again[1].more == (4,)
    assert module.ran == []


def test_missing_fields_get_their_defaults_and_unknown_ones_are_dropped(load: Any) -> None:
    bases = {
        "dataclass": (
            "from dataclasses import dataclass, field\n@dataclass\nclass A:\n",
            "field(default_factory=list)",
        ),
        "slots": (
            "from dataclasses import dataclass, field\n@dataclass(slots=True, frozen=True)\nclass A:\n",
            "field(default_factory=list)",
        ),
        "struct": ("import msgspec\nclass A(msgspec.Struct):\n", "[]"),
        "namedtuple": ("from typing import NamedTuple\nclass A(NamedTuple):\n", "[]"),
        "pydantic": ("import pydantic\nclass A(pydantic.BaseModel):\n", "[]"),
    }
    for name, (head, default) in bases.items():
        data = encode(load("evolving", head + "    a: int\n    gone: int = 5\n").A(a=1))
        new = load("evolving", head + f"    a: int\n    b: int = 7\n    c: list = {default}\n").A
        assert decoder()(data) == new(a=1), name
        strict = load("evolving", head + "    a: int\n    z: int\n").A
        with pytest.raises(DecodeError, match="no field 'z'") as caught:
            decoder(strict)(data)
        assert caught.value.hint == "Give A.z a default value."


def test_a_dataclass_may_become_a_struct_or_a_model(load: Any) -> None:
    data = encode(load("changing", PAGE).Page("t"))
    for head in ("import msgspec\nclass Page(msgspec.Struct):", "import pydantic\nclass Page(pydantic.BaseModel):"):
        new = load("changing", f"{head}\n    title: str\n").Page
        assert decoder()(data) == new(title="t")


def test_attributes_beside_the_fields_come_back_but_caches_do_not() -> None:
    dog = Dog("Rex")
    dog.age = (5,)  # type: ignore[attr-defined]  # set in many a __post_init__
    again: Any = decoder()(encode(dog))
    assert again.age == (5,)


def test_a_field_never_set_stays_unset() -> None:
    again: Any = decoder()(encode(blank(Cat, name="Tom")))
    assert not hasattr(again, "seen")
    assert again.lives == 9


def test_a_class_that_is_not_loaded_is_named(load: Any) -> None:
    data = encode(load("vanishing", PAGE).Page("t"))
    del sys.modules["vanishing"]
    with pytest.raises(DecodeError, match="the class Page of module vanishing") as caught:
        decoder()(data)
    assert caught.value.hint == "Import vanishing before reading it, or name Page in the return annotation."


def test_nothing_is_imported_to_find_a_class() -> None:
    sys.modules.pop("email.mime.image", None)
    data = msgspec.msgpack.encode(
        msgspec.msgpack.Ext(13, msgspec.msgpack.encode(["email.mime.image", "MIMEImage", {}]))
    )
    with pytest.raises(DecodeError):
        decoder()(data)
    assert "email.mime.image" not in sys.modules


@pytest.mark.parametrize(
    "name", [("subprocess", "Popen"), ("builtins", "dict"), ("threading", "Thread"), ("os", "system")]
)
def test_only_classes_made_to_hold_data_are_filled(name: tuple[str, str]) -> None:
    data = msgspec.msgpack.encode(msgspec.msgpack.Ext(13, msgspec.msgpack.encode([*name, {"args": "true"}])))
    with pytest.raises(DecodeError, match="no such class is loaded"):
        decoder()(data)


def local_class() -> Any:
    @dataclass
    class Local:
        x: int

    return Local


def test_a_local_class_of_another_process_is_found_through_the_annotation_only() -> None:
    local = local_class()
    data = encode(local(1)).replace(b"local_class", b"class_local")
    local.__qualname__ = local.__qualname__.replace("local_class", "class_local")
    assert decoder(_list_of(local))(data) == local(1)
    with pytest.raises(DecodeError, match="Define it at the top of its module"):
        decoder()(data)


def test_a_process_reads_back_the_latest_class_that_it_wrote_under_a_name() -> None:
    read = decoder()
    for _ in range(2):
        for value in (local_class()(1), dataclasses.make_dataclass("Made", ["x"])(1)):
            found = read(encode(value))
            assert type(found) is type(value)
            assert found == value


def _list_of(cls: object) -> object:
    return types.GenericAlias(list, (cls,))


ANNOTATIONS = """
import typing, sys
from dataclasses import dataclass
@dataclass
class Dog:
    name: str
@dataclass
class Cat:
    name: str
class Shape: ...
@dataclass
class Square(Shape):
    side: int
Alias = typing.NewType("Alias", Dog)
Bound = typing.TypeVar("Bound", bound=Dog)
T = typing.TypeVar("T")
class Wraps(typing.NamedTuple):
    dog: Dog
class Holds(typing.TypedDict):
    dogs: dict[str, Wraps]
@dataclass
class Parcel(typing.Generic[T]):
    inside: T
class DogParcel(Parcel[Dog]): ...
"""


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("list[Dog]", "Dog('a')"),
        ("dict[str, tuple[Dog, ...]]", "Dog('a')"),
        ("Cat | Dog | None", "Dog('a')"),
        ("typing.Optional[Dog]", "Dog('a')"),
        ("typing.Annotated[list[Dog], 'note']", "Dog('a')"),
        ("Alias", "Dog('a')"),
        ("Bound", "Dog('a')"),
        ("Holds", "Dog('a')"),
        ("typing.Callable[[Dog], None]", "Dog('a')"),
        ("Parcel[Dog]", "Parcel(Dog('a'))"),
        ("DogParcel", "DogParcel(Dog('a'))"),
        ("Shape", "Square(2)"),
        ("typing.Iterable[Shape]", "Square(2)"),
    ],
)
def test_classes_named_anywhere_in_an_annotation_are_found(annotation: str, value: str, load: Any) -> None:
    module = load("annotated", ANNOTATIONS)
    made, note = eval(value, vars(module)), eval(annotation, vars(module))
    data = encode(made)
    del sys.modules["annotated"]
    with pytest.raises(DecodeError):
        decoder(int, list[Any])(data)
    assert decoder(note)(data) == made


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the `type` statement is of Python 3.12")
def test_classes_named_in_a_type_statement_are_found(load: Any) -> None:
    module = load("annotated", ANNOTATIONS + "type Dogs = list[Dog]\n")
    made, note = module.Dog("a"), module.Dogs
    del sys.modules["annotated"]
    assert decoder(note)(encode(made)) == made


def test_a_field_type_that_only_type_checkers_see_does_not_hide_the_others(load: Any) -> None:
    hidden = load("hidden", PAGE)
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom hidden import Page\n"
        "@dataclass\nclass Book:\n    about: Nowhere\n    pages: list[Page]\n"
    )
    book = load("checked", source).Book
    del sys.modules["hidden"]
    assert decoder(book)(encode(hidden.Page("t"))) == hidden.Page("t")


class Mood(enum.Enum):
    GOOD = 1
    BAD = 2


def test_an_enum_named_in_a_literal_is_found(monkeypatch: Any) -> None:
    data = encode(Mood.BAD)
    monkeypatch.delitem(sys.modules, __name__)
    assert decoder(Literal[Mood.GOOD])(data) is Mood.BAD


def test_a_renamed_enum_member_is_found_by_its_value(load: Any) -> None:
    data = encode(load("moods", "import enum\nclass Mood(enum.Enum):\n    GOOD = 1\n").Mood.GOOD)
    new = load("moods", "import enum\nclass Mood(enum.Enum):\n    FINE = 1\n").Mood
    assert decoder()(data) is new.FINE
    load("moods", "import enum\nclass Mood(enum.Enum):\n    FINE = 2\n")
    with pytest.raises(DecodeError, match=r"Mood\.GOOD is no member"):
        decoder()(data)


def test_the_annotated_class_wins_over_the_loaded_one(load: Any) -> None:
    first = load("twice", PAGE).Page
    data = encode(first("t"))
    load("twice", PAGE)
    assert type(decoder(first)(data)) is first


def test_a_class_moved_to_another_module_is_found_through_the_annotation(load: Any) -> None:
    data = encode(load("before_move", PAGE).Page("t"))
    del sys.modules["before_move"]
    moved = load("after_move", PAGE).Page
    assert type(decoder(_list_of(moved))(data)) is moved
    assert type(decoder(module="after_move")(data)) is moved


def test_an_heir_of_the_same_name_elsewhere_is_not_taken_for_it(load: Any) -> None:
    base = load("heirs_base", "class Base: ...\n").Base
    source = "from heirs_base import Base\n" + PAGE.replace("class Page", "class Page(Base)")
    data = encode(load("heir_one", source).Page("t"))
    del sys.modules["heir_one"]
    other = load("heir_two", source).Page
    assert issubclass(other, base)
    renamed = data.replace(b"heir_one", b"heir_six")  # the first class still lives, and would be found by its name
    with pytest.raises(DecodeError, match="heir_six"):
        decoder(base)(renamed)


def test_generic_dataclasses_come_back(load: Any) -> None:
    module = load(
        "generic",
        "from dataclasses import dataclass\nfrom typing import Generic, TypeVar\nT = TypeVar('T')\n"
        "@dataclass\nclass Page(Generic[T]):\n    item: T\n",
    )
    value = module.Page[int](module.Page(1))
    assert decoder(module.Page[int])(encode(value)) == value


# ---- pydantic


def test_a_model_comes_back_whole() -> None:
    node = Node.model_validate(
        {"name": "A", "raw": b"\xff", "data": {(1, 2): {3}}, "children": [Node(name="b")], "more": (1,)}
    )
    node._secret = 5
    assert node.size == 1
    again = decoder()(encode(node))
    assert isinstance(again, Node)
    assert again.model_fields_set == node.model_fields_set
    assert again.model_extra == {"more": (1,)}
    assert again._secret == 5
    assert again.data == {(1, 2): {3}}
    assert "size" not in again.__dict__
    assert again.children == node.children
    assert again.children[0].model_fields_set == {"name"}


def test_a_models_validators_do_not_run() -> None:
    node = Node.model_construct(name="UPPER")
    again = decoder()(encode(node))
    assert isinstance(again, Node)
    assert again.name == "UPPER"


def test_a_frozen_model_with_a_url_comes_back() -> None:
    strict = Strict.model_validate({"url": "https://example.com/a"})
    again = decoder()(encode({strict: 1}))
    assert again == {strict: 1}


def test_equal_models_have_one_canonical_form() -> None:
    url = "https://example.com/"
    one, other = Strict.model_validate({"url": url}), Strict.model_validate({"count": 0, "url": url})
    assert one == other
    assert canonical(one) == canonical(other)
    assert encode(one) != encode(other)


def test_generic_models_come_back_as_the_parametrised_class() -> None:
    value = Envelope[Envelope[int]](item=Envelope[int](item=1))
    assert decoder()(encode(value)) == value
    assert type(decoder()(encode(value))) is Envelope[Envelope[int]]


def test_a_generic_model_not_parametrised_here_comes_back_as_its_origin(load: Any) -> None:
    source = "import pydantic\nfrom typing import Generic, TypeVar\nT = TypeVar('T')\nclass E(pydantic.BaseModel, Generic[T]):\n    item: T\n"  # noqa: E501
    data = encode(load("fresh", source).E[int](item=1))
    fresh = load("fresh", source).E
    assert decoder()(data) == fresh(item=1)


def test_a_secret_in_a_model_is_not_recorded() -> None:
    class Login(pydantic.BaseModel):
        password: pydantic.SecretStr

    from kitaru.errors import EncodeError

    with pytest.raises(EncodeError, match=r"value\.password is a pydantic\.types\.SecretStr"):
        encode(Login(password=pydantic.SecretStr("x")))


# ---- __main__


def test_classes_of_a_script_keep_one_name_however_it_is_loaded(load: Any) -> None:
    main = sys.modules["__main__"]
    script = load("loaded_script", PAGE)
    assert portable_module("loaded_script") == "loaded_script"
    register_main_alias("loaded_script")
    assert portable_module("loaded_script") == "__main__"
    data = encode(script.Page("t"))
    assert b"__main__" in data
    assert b"loaded_script" not in data
    assert not hasattr(main, "Page")
    assert decoder()(data) == script.Page("t")


def test_a_class_recorded_by_the_running_script_is_found_in_it(load: Any) -> None:
    script = load("as_main", PAGE.replace("\n@", "\n__name__ = '__main__'\n@"))
    sys.modules["__main__"].Page = script.Page  # type: ignore[attr-defined]  # the fixture takes it away again
    del sys.modules["as_main"]
    data = encode(script.Page("t"))
    assert b"__main__" in data
    assert decoder()(data) == script.Page("t")


def test_of_two_scripts_the_one_asked_for_wins(load: Any) -> None:
    first, second = load("script_one", PAGE), load("script_two", PAGE)
    for name in ("script_one", "script_two"):
        register_main_alias(name)
    data = encode(first.Page("t"))
    assert type(decoder(module="script_one")(data)) is first.Page
    assert type(decoder(module="script_two")(data)) is second.Page


def test_a_module_that_is_not_loaded_cannot_stand_for_the_script() -> None:
    with pytest.raises(UsageError, match="no module 'nowhere'"):
        register_main_alias("nowhere")
    register_main_alias("__main__")
    assert portable_module("__main__") == "__main__"
    assert portable_module("nowhere") == "nowhere"
