"""Flows, boundaries, replay, runs, `llm()`. What users may name is in `kitaru`; the command line uses the rest."""
