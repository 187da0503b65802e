"""PostgreSQL: the embedded server, a pool with our errors, migrations, wake-ups, and the transactional outbox.

Import from the modules: `embedded`, `database`, `queries`, `migrations`, `notify`, `outbox`, and `testing` for tests.
"""
