"""How large the benchmark's workflows are."""

CHAIN = 50
"""Tasks that follow each other."""
FAN = 200
"""Tasks that do not depend on each other."""
