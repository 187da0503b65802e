"""Rows in, rows out: SQL in files, and what runs it on a given connection."""
