"""The data plane: engine, node handlers, task plugins and runtimes."""
