"""The data catalog: cached outputs of tasks, and the reservations that make caching serial."""
