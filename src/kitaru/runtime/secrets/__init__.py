"""Secrets: named ones, those of one run, credentials of one request, and what keeps their values out of the log."""
