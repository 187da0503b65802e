"""The scheduler's rules: when a schedule fires, how its executions are called, and what is done about missed slots."""
