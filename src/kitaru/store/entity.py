"""The base of objects that are made at every step."""

import msgspec


class Entity(msgspec.Struct, eq=False):
    """An object that is equal to itself only. msgspec sets its fields in C, and several are made at every step."""

    # Not the fields: they may be long, or private.
    __repr__ = object.__repr__
