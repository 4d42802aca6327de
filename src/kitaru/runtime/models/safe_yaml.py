"""YAML from elsewhere, read as plain data: no anchors, no aliases, no repeated keys, nothing huge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kitaru.errors import UsageError

if TYPE_CHECKING:
    from yaml.nodes import MappingNode, Node

LARGEST: Final = 1024 * 1024
_DEEPEST: Final = 50


def load(data: bytes, where: str) -> object:
    """Read one YAML document.

    Args:
        data: UTF-8.
        where: Its file, for messages.

    Raises:
        UsageError: It cannot be read, or pyyaml is not installed. Lines are named, values never: they may be keys.
    """
    if len(data) > LARGEST:
        raise UsageError(f"{where} is larger than {LARGEST // 1024} KB", hint="Is it the right file?")
    try:
        import yaml
    except ImportError:
        raise UsageError(
            "reading YAML needs a package that is not installed", hint="Install it: pip install pyyaml."
        ) from None

    def refuse(node: Node, what: str) -> UsageError:
        return UsageError(f"{where}, line {node.start_mark.line + 1}: {what}")

    class Loader(yaml.SafeLoader):
        """The safe loader without references between nodes, by which a small file becomes an endless one."""

        depth = 0
        # A date stays the text that it is: `api_version: 2024-10-21`.
        yaml_implicit_resolvers = {  # noqa: RUF012 - pyyaml's own way
            first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_node(self, parent: Node | None, index: Any) -> Node | None:
            event = self.peek_event()  # type: ignore[no-untyped-call]  # pyyaml's stubs
            line = event.start_mark.line + 1
            if isinstance(event, yaml.events.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise UsageError(
                    f"{where}, line {line}: anchors and aliases (& and *) are not read", hint="Write the value out."
                )
            if self.depth >= _DEEPEST:
                raise UsageError(f"{where}, line {line}: it is nested too deep")
            self.depth += 1
            try:
                node: Node | None = super().compose_node(parent, index)
            finally:
                self.depth -= 1
            return node

        def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys: set[object] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str | int | float | bool):
                    raise refuse(key_node, "a key is not a word")
                if key in keys:
                    raise refuse(key_node, f"{key!r} is there twice")
                keys.add(key)
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(data.decode("utf-8-sig"), Loader)  # noqa: S506 - a subclass of the safe loader
    except UnicodeDecodeError:
        raise UsageError(f"{where} is not UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{where}{line}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    except (RecursionError, ValueError):
        raise UsageError(f"{where} cannot be read as YAML") from None
