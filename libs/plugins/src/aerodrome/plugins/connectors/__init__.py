"""Connectors (formerly agents): services elsewhere that run tasks, spoken to over flyteidl's gRPC contract.

`ConnectorPlugin` is the plugin, `client` the calls, `directory` what is known of who runs which type of task.
Source: spec/data-plane.md, sections 5.4 and 5.12.
"""

from aerodrome.plugins.connectors.plugin import ConnectorPlugin

__all__ = ["ConnectorPlugin"]
