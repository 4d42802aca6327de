"""The tables of providers say what the code does."""

from __future__ import annotations

import re
import tomllib

import pytest

from kitaru.adapters import names, provider
from tests.docs.generate_providers import BEGIN, DOCUMENT, END, ROOT, document, explained

TEXT = DOCUMENT.read_text(encoding="utf-8")

# What the tests of an SDK are called, where that is not the package's name.
TESTED = {
    "google-genai": "google",
    "mistralai": "mistral",
    "openai": "openai-chat",
    "perplexityai": "perplexity",
}


def test_the_tables_are_what_the_code_uses() -> None:
    assert document(TEXT) == TEXT, "docs/providers.md is stale; write it anew: python -m tests.docs.generate_providers"


@pytest.mark.parametrize(
    ("cell", "other"), [("`OPENAI_API_KEY`", "`OPENAI_KEY`"), ("≤ 4", "≤ 5"), ("21,333 tokens", "21,334 tokens")]
)
def test_a_changed_cell_is_noticed(cell: str, other: str) -> None:
    assert cell in TEXT
    assert document(TEXT.replace(f"| {cell} |", f"| {other} |")) == TEXT


@pytest.mark.parametrize("line", [BEGIN, END])
def test_a_document_without_its_marks_is_not_overwritten(line: str) -> None:
    with pytest.raises(ValueError, match="has lost its line"):
        document(TEXT.replace(line, ""))


@pytest.mark.parametrize("name", names())
def test_every_provider_is_there_with_its_docs(name: str) -> None:
    assert f"`{name}/`" in TEXT
    assert provider(name).docs in TEXT


def test_every_sdk_is_compared_and_its_differences_have_their_reasons() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    sdks = {re.split(r"[^\w-]", one, maxsplit=1)[0] for one in extras["sdks"]}
    found = explained()
    assert {TESTED.get(sdk, sdk) for sdk in sdks} <= found.keys()
    assert all(why for reasons in found.values() for why in reasons.values())
