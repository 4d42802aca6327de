"""What stands where an exception's attribute was that could not be recorded."""

from __future__ import annotations

from typing import Any, NoReturn

from kitaru.errors import NotRecordedError


class NotRecorded:
    """An attribute of an exception that could not be recorded. Using it is an error that says so."""

    __slots__ = ("_name", "type_name")

    def __init__(self, name: str, type_name: str) -> None:
        self._name = name
        self.type_name = type_name
        """The class of what it was; `secret` where it held one."""

    def _refuse(self, *_: object) -> NoReturn:
        why = "it held a secret" if self.type_name == "secret" else f"a {self.type_name} cannot be recorded"
        raise NotRecordedError(
            f"{self._name} was not recorded with the exception: {why}",
            hint="Inside the step, raise an exception whose attributes are plain data.",
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in NotRecorded.__slots__:
            raise AttributeError(name)
        self._refuse()

    __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = __call__ = __int__ = __float__ = _refuse

    def __repr__(self) -> str:
        return f"<{self._name} was not recorded: {self.type_name}>"
