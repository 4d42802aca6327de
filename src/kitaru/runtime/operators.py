"""The operators of a handle: those of its value where it stands for that, else an error that says to await it.

They are added to the class instead of written there, so that a type checker still refuses `call + 1`.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable
from typing import Any, Final

_BINARY: Final[dict[str, Callable[[Any, Any], object]]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow, "lshift": operator.lshift,
    "rshift": operator.rshift, "and": operator.and_, "or": operator.or_, "xor": operator.xor,
    "matmul": operator.matmul, "divmod": divmod,
}  # fmt: skip
_COMPARISONS: Final = ("lt", "le", "gt", "ge")

_UNARY: Final[dict[str, Callable[..., object]]] = {
    "neg": operator.neg, "pos": operator.pos, "invert": operator.invert, "abs": abs, "int": int, "float": float,
    "complex": complex, "index": operator.index, "bytes": bytes, "fspath": os.fspath, "reversed": reversed,
    "round": round, "trunc": math.trunc, "floor": math.floor, "ceil": math.ceil, "setitem": operator.setitem,
    "delitem": operator.delitem,
}  # fmt: skip


def add_operators(cls: type, value_of: Callable[[Any], Any]) -> None:
    """Give a class the operators of the values that its objects stand for.

    Args:
        cls: The class.
        value_of: Returns an object's value, or raises.
    """
    for name, both in _BINARY.items():
        setattr(cls, f"__{name}__", _direct(both, value_of))
        setattr(cls, f"__r{name}__", _reflected(both, value_of))
    for name in _COMPARISONS:
        setattr(cls, f"__{name}__", _direct(getattr(operator, name), value_of))
    for name, operate in _UNARY.items():
        setattr(cls, f"__{name}__", _direct(operate, value_of))


def _direct(operate: Callable[..., object], value_of: Callable[[Any], Any]) -> Callable[..., object]:
    return lambda handle, *others: operate(value_of(handle), *others)


def _reflected(operate: Callable[..., object], value_of: Callable[[Any], Any]) -> Callable[..., object]:
    return lambda handle, other: operate(other, value_of(handle))
