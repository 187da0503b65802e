"""One handler per kind of node: resolve its inputs, start it, end it, collect what it gave."""
