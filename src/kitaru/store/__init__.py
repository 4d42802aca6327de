"""The log: events, artifacts, and who owns which run."""

from __future__ import annotations
