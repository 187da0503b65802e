"""Tells people and systems how executions ended."""
