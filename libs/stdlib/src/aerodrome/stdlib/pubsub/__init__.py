"""Messages between services: topics, groups of readers, at least once and in order per key.

Import from the modules: `bus` (the port), `memory` and `postgres` (its adapters).
"""
