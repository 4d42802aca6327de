from __future__ import annotations

import base64
import copy
import json
import pickle
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.adapters.masking import Masker
from kitaru.adapters.secret import SecretStr, clean, excerpt, mask_text

CANARY = 'canary/Value+"9f3a\\77'


def test_a_secret_shows_as_asterisks_in_every_rendering() -> None:
    secret = SecretStr(CANARY)
    shown = f"{secret} {secret!r} {secret!s} {[secret]} {(secret,)!r} %s" % secret
    assert CANARY not in shown
    assert "**********" in shown


def test_secrets_compare_by_value_and_copy_to_themselves() -> None:
    secret = SecretStr(CANARY)
    assert secret == SecretStr(CANARY)
    assert hash(secret) == hash(SecretStr(CANARY))
    assert secret != SecretStr("other")
    assert secret != CANARY
    assert copy.deepcopy(secret) is secret
    assert not SecretStr("")


def test_a_secret_can_be_neither_pickled_nor_encoded() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(SecretStr(CANARY))
    with pytest.raises(TypeError):
        msgspec.msgpack.encode(SecretStr(CANARY))


@pytest.mark.parametrize("prefix", ["", "B", "Be", "Bearer "])
@pytest.mark.parametrize(
    "render",
    [
        lambda text: text.encode(),
        lambda text: json.dumps(text).encode(),
        lambda text: json.dumps(text).replace("/", "\\/").encode(),
        lambda text: quote(text, safe="").encode(),
        lambda text: base64.b64encode(text.encode()),
        lambda text: base64.urlsafe_b64encode(text.encode()),
        lambda text: base64.b64encode(text.encode() + b":tail"),
    ],
)
def test_an_echo_is_masked_in_every_form_and_alignment(render: object, prefix: str) -> None:
    assert callable(render)
    body: bytes = render(prefix + CANARY)
    masked = Masker([SecretStr(CANARY)]).error_bytes.mask(b"<" + body + b">")
    assert b"**********" in masked
    for form in SecretStr(CANARY).forms():
        assert form not in masked


def test_a_placeholder_key_does_not_mangle_an_answer() -> None:
    body = b"an ollama is not a llama"
    assert Masker([SecretStr("ollama")]).answer_bytes.mask(body) == body


@given(st.text(min_size=4, max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_no_raw_echo_survives_whatever_surrounds_it(value: str, before: bytes, after: bytes) -> None:
    raw = value.encode("utf-8", "surrogatepass")
    if raw in b"**********":
        return
    masker = Masker([SecretStr(value)])
    assert raw not in masker.error_bytes.mask(raw)
    assert len(masker.error_bytes.mask(before + raw + after)) > 0


def test_a_text_is_masked_whole_and_left_alone_for_short_secrets() -> None:
    assert mask_text(f"<{CANARY}>", [SecretStr(CANARY)]) == "<**********>"
    assert mask_text("a llama", [SecretStr("llama")], shortest=6) == "a llama"


def test_an_excerpt_is_one_short_line_without_control_characters() -> None:
    shown = excerpt(b"\x1b[31mred\x1b[0m\r\n\xff\xfe\x00 \xe2\x80\xae" + b"x" * 1000)
    assert shown.isprintable()
    assert len(shown) <= 200
    assert shown.startswith("[31mred [0m")


def test_cleaning_cuts_with_an_ellipsis() -> None:
    assert clean("a" * 30, 10) == "a" * 9 + "…"
    assert clean("a\tb\n", 10) == "a b"
