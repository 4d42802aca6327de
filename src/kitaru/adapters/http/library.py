"""Loads httpx without its command line, which brings rich and pygments and is more than half of the import."""

from __future__ import annotations

import sys

if "httpx" not in sys.modules:
    # A module that cannot be loaded: httpx then does without, as where its extra `cli` is not installed.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]  # the way that the import system documents
    try:
        import httpx  # noqa: F401 - loaded for those that import it next
    finally:
        del sys.modules["httpx._main"]
