"""Calls between services: one servicer, the same doors around it, on the network or directly in one process.

Import from the modules: `server`, `registry`, `context`, `direct`, `client`, `oneport`, `runtime_dir`.
"""
