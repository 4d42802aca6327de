"""Secrets from a shell: set, show, list, delete, rekey."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kitaru.cli import wording
from kitaru.cli.commands import Context, command
from kitaru.cli.failures import OK
from kitaru.cli.groups import SECRETS
from kitaru.cli.inputs import stdin_text
from kitaru.cli.output import Output, clean
from kitaru.cli.session import place_of, with_runtime
from kitaru.errors import UsageError

if TYPE_CHECKING:
    from kitaru.runtime.core import Core

T = TypeVar("T")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A secret's name, its id, or a unique prefix of the id.")]

_MASK = "*" * 10


@SECRETS.callback()
def group(context: typer.Context) -> None:
    """What `kitaru secrets` does by itself."""
    if context.invoked_subcommand is None:
        Output().line(context.get_help().rstrip())
        raise typer.Exit(OK)


def _with(
    context: Context, work: Callable[..., T], *arguments: Any, new: bool = False, absent: T | None = None, **more: Any
) -> T:
    """What a function of the runtime's gives, away from the event loop: it may wait for the OS keyring."""

    async def enter(runtime: Core) -> T:
        return await asyncio.to_thread(functools.partial(work, *arguments, runtime=runtime, **more))

    return with_runtime(context.store, enter, new=new, absent=absent, of="secrets")


@command(
    (SECRETS, "set"),
    examples="""
kitaru secrets set openai-creds OPENAI_API_KEY
kitaru secrets set openai-creds OPENAI_API_KEY < key.txt
kitaru secrets set team-creds --public --OPENAI_API_KEY=... --OPENAI_ORG_ID=...
""",
    details="With KEY alone, the command prompts for the value without showing it, or reads it from stdin. A value on "
    "the command line is visible in the process list and in the shell's history. A new secret is private: only this "
    "user of the store can read it.",
    any_option=True,
)
def set_(
    context: Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The secret; created if it does not exist.")],
    values: Annotated[
        list[str], typer.Argument(metavar="KEY | --KEY=VALUE...", help="The values to set; other values are unchanged.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Only this user can read it (default for a new secret).")
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="All users of the store can read it.")] = False,
) -> int:
    """Store a secret, or set values of one."""
    from kitaru.runtime.secrets.named import set_secret

    out = context.out
    if private and public:
        raise UsageError("a secret is either --private or --public")
    given, asked = _taken_apart(values)
    if given:
        out.note("Note: values on the command line show in `ps` and in the shell's history; `kitaru secrets set "
                 f"{clean(name)} {clean(next(iter(given)))}` asks for one instead.")  # fmt: skip
    given.update(_asked_for(asked))
    hidden = True if private else False if public else None
    found = _with(context, set_secret, name, given, private=hidden, new=True)
    if out.as_json:
        out.document(_summary(found))
    else:
        seen = "private" if found.private else "public"
        out.line(f"Set {wording.count(len(given), 'value')} of {clean(found.name)} ({seen}): {', '.join(given)}.")
    return OK


def _taken_apart(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """What was typed after the name: values by key, and keys whose values have to be asked for."""
    from kitaru.runtime.secrets.image import NAME as VARIABLE

    given: dict[str, str] = {}
    asked: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            if "=" in word:
                # Not shown: what stands behind the `=` is most likely a secret.
                raise UsageError(
                    f"{word.partition('=')[0]}=... is no option", hint="Write --KEY=VALUE, or KEY alone to be asked."
                )
            if VARIABLE.fullmatch(word) is None:
                raise UsageError(
                    "a word after the secret's name is no key", hint="Name a key like a variable: OPENAI_API_KEY."
                )
            asked.append(word)
            continue
        key, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--"):
            raise UsageError("an option with one dash is no key", hint="Write --KEY=VALUE.")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"--{key} is given no value", hint=f"Write --{key}=VALUE, or {key} to be asked.")
            value = rest.pop(0)
        if key in given:
            raise UsageError(f"--{key} is given twice")
        given[key] = value
    return given, asked


def _asked_for(keys: list[str]) -> dict[str, str]:
    if not keys:
        return {}
    if sys.stdin.isatty():
        import getpass

        return {key: getpass.getpass(f"{key}: ", stream=sys.stderr) for key in keys}
    if len(keys) > 1:
        raise UsageError(
            f"{' and '.join(keys)} cannot both be read from stdin", hint="Set one after the other, or use a terminal."
        )
    # What an editor or `echo` adds is no part of a key.
    return {keys[0]: stdin_text().rstrip("\r\n")}


@command(
    (SECRETS, "show"),
    examples="""
kitaru secrets show openai-creds
kitaru secrets show openai-creds --reveal
""",
)
def show(
    context: Context,
    name: Name,
    reveal: Annotated[
        bool, typer.Option("--reveal", "--show-values", help="Print the values, not only their names.")
    ] = False,
) -> int:
    """Show a secret, its values masked."""
    from kitaru.runtime.secrets.named import describe_secret, get_secret

    found = _with(context, describe_secret, name)
    values = _with(context, get_secret, found.id).values if reveal else dict.fromkeys(found.keys, _MASK)
    out = context.out
    if out.as_json:
        out.document({**_summary(found), "values": dict(values)} if reveal else _summary(found))
        return OK
    out.line(f"{out.paint(clean(found.name), 'bold')}  {found.id}")
    out.line(f"{'private' if found.private else 'public'}, of {clean(found.owner)}, set {wording.age(found.updated)}")
    out.table([[clean(key), clean(value)] for key, value in values.items()], indent=2)
    return OK


@command((SECRETS, "list"), examples="kitaru secrets list\nkitaru secrets list --json")
def list_(context: Context) -> int:
    """List the secrets that this user may see, without values."""
    from kitaru.runtime.secrets.named import SecretSummary, list_secrets

    nothing: list[SecretSummary] = []
    found = _with(context, list_secrets, absent=nothing)
    out = context.out
    if out.as_json:
        out.document({"secrets": [_summary(one) for one in found]})
        return OK
    if not found:
        out.note(f"No secrets yet in {clean(place_of(context.store))}  Store one: kitaru secrets set NAME KEY")
        return OK
    rows = [["NAME", "ID", "SEEN BY", "KEYS", "SET"]]
    rows += [
        [
            clean(one.name),
            one.id[:8],
            clean(one.owner) if one.private else "all",
            ", ".join(one.keys),
            wording.age(one.updated),
        ]
        for one in found
    ]
    out.table(rows, colours=[["dim"] * 5])
    return OK


@command((SECRETS, "delete"), examples="kitaru secrets delete openai-creds\nkitaru secrets delete openai-creds --yes")
def delete(
    context: Context, name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> int:
    """Delete a secret. On a terminal, the command asks first."""
    from kitaru.runtime.secrets.named import delete_secret, describe_secret

    out = context.out
    found = _with(context, describe_secret, name)
    if not yes and sys.stdin.isatty() and out.err.isatty():
        question = f"Delete {clean(found.name)} ({', '.join(found.keys)}), for good?"
        if not typer.confirm(question, err=True):
            out.note("Nothing was deleted.")
            return OK
    _with(context, delete_secret, found.id)
    if out.as_json:
        out.document(_summary(found))
    else:
        out.line(f"Deleted {clean(found.name)}.")
    return OK


@command(
    (SECRETS, "rekey"),
    examples="kitaru secrets rekey",
    details="Encrypts every value again, with KITARU_SECRET_KEY if it is set, otherwise with a new key, which is "
    "stored in the place of the old one. This is one transaction: if the process is killed, everything stays readable. "
    "To replace KITARU_SECRET_KEY itself, set it to the new value, and KITARU_SECRET_KEY_FORMER to the old one.",
)
def rekey(context: Context) -> int:
    """Replace the key that encrypts the secrets."""
    from kitaru.runtime.secrets.named import rekey as renew

    replaced, left, source = _with(context, renew)
    out = context.out
    if out.as_json:
        out.document({"replaced": replaced, "left": left, "source": source})
        return OK
    out.line(f"Encrypted {wording.count(replaced, 'value')} with the key from {clean(source)}.")
    if left:
        out.always(f"{wording.count(left, 'value')} stayed as they were: their key is not at hand.")
    return OK


def _summary(found: Any) -> dict[str, object]:
    from kitaru.runtime.views.transcript import struct_as_json

    return struct_as_json(found)
