"""The control plane: registration, executions, the journal, and the data proxy."""
