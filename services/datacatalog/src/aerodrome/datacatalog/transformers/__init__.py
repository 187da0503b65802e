"""Between messages and rows."""
