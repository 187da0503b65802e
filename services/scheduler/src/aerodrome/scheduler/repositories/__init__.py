"""SQL in, models out."""
