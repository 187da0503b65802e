"""How large the benchmark's workflows are."""

CHAIN = 50
"""Tasks that follow each other."""
FAN = 200
"""Tasks that do not depend on each other."""
ECHOES = 10_000
"""Echo tasks that do not depend on each other."""
ECHO_ITEMS = 100_000
"""Items of a map of echo tasks."""
ITEMS = 1_000
"""Items of a map of Python tasks."""
CHILDREN = 1_000
"""Launch plans that one workflow starts, and launch plans that start each other."""
