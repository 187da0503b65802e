"""The rules: each call is checked, then done in a transaction of its own."""
