"""The recorded form: which msgpack extension stands for which Python type.

None, bool, int, float, str, bytes, list and dict are plain msgpack. Everything else is an extension whose data is
either raw bytes or one msgpack value, as noted. A code, once used in a released version, keeps its meaning for ever.
"""

from __future__ import annotations

from typing import Final

import msgspec

TUPLE: Final = 1
"""[item, ...]"""
SET: Final = 2
"""[item, ...], sorted by the items' encoded bytes"""
FROZENSET: Final = 3
"""As SET."""
BIG_INT: Final = 4
"""Raw: two's complement, big end first; for what 64 bits do not hold."""
DECIMAL: Final = 5
"""Raw: its text."""
UUID: Final = 6
"""Raw: 16 bytes."""
DATETIME: Final = 7
"""[year, month, day, hour, minute, second, microsecond, fold, zone]; for zone see ZONE."""
DATE: Final = 8
"""[year, month, day]"""
TIME: Final = 9
"""[hour, minute, second, microsecond, fold, zone]"""
TIMEDELTA: Final = 10
"""[days, seconds, microseconds]"""
COMPLEX: Final = 11
"""[real, imaginary]"""
ENUM: Final = 12
"""[module, qualname, name or nil, value]; the value is nil unless it is a scalar."""
OBJECT: Final = 13
"""[module, qualname, {field: value}] or, with a fourth item, what it holds besides its fields (see `records`)."""
MAP: Final = 14
"""[key, value, key, value, ...]: a dict with keys that are not scalars."""
TEXT: Final = 15
"""Raw: UTF-8 with surrogates passed through; for a str that is not valid Unicode."""
PATH: Final = 16
"""[class name, text]"""
RANGE: Final = 17
"""[start, stop, step]"""
BYTEARRAY: Final = 18
"""Raw: the bytes."""
DEQUE: Final = 19
"""[maxlen or nil, [item, ...]]"""
ORDERED_DICT: Final = 20
"""As MAP."""
DEFAULT_DICT: Final = 21
"""[name of the factory or nil, key, value, ...]"""
COUNTER: Final = 22
"""As MAP."""
FRACTION: Final = 23
"""[numerator, denominator]"""
EXCEPTION: Final = 24
"""Raw: the recorded form of an exception (see `exceptions`)."""
CONSTANT: Final = 25
"""Raw: the name of a singleton."""
ZONE: Final = 26
"""nil, the key of a ZoneInfo, the microseconds of a fixed offset, or [microseconds, name]."""
ADDRESS: Final = 27
"""[module, class name, text]: an IP address or network, or a pydantic URL."""
SECRET: Final = 28
"""Raw: the keyed digest of a secret value, which is kept elsewhere (see `hidden`)."""

SCALARS: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, bytes})
"""The exact types that msgpack holds as they are and that may be the keys of a plain map."""

PATHS: Final = ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath")
IP_CLASSES: Final = (
    "IPv4Address",
    "IPv6Address",
    "IPv4Network",
    "IPv6Network",
    "IPv4Interface",
    "IPv6Interface",
)
FACTORIES: Final[dict[str, type]] = {
    cls.__name__: cls for cls in (list, dict, set, tuple, frozenset, int, float, str, bytes, bool)
}
"""What a defaultdict may have as its factory."""

CONSTANTS: Final[dict[str, object]] = {
    "Ellipsis": ...,
    "NotImplemented": NotImplemented,
    "msgspec.UNSET": msgspec.UNSET,
}
