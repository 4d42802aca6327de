"""Runs as people look at them: lists, steps, reports, costs."""
