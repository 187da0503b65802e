"""The queue in which the container tasks of an execution run, for those who run tasks by queues (batch services).

Source: spec/control-plane.md, section 8.4.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from flyteidl.admin.matchable_resource_pb2 import MatchableResource

from aerodrome.admin.config import QueuesConfig, WorkflowQueueConfig
from aerodrome.admin.domain.attributes import AttributeRow, most_specific


def choose_queue(
    config: QueuesConfig,
    attributes: Iterable[AttributeRow],
    *,
    project: str,
    domain: str,
    workflow: str,
    execution_name: str,
) -> str:
    """The dynamic queue for a workflow's tasks, the same for every call with the same execution name; "" for none.

    The tags that the workflow's EXECUTION_QUEUE attributes ask for come first, then those that are configured for its
    place, and of each the first that a queue has.  Among several queues that have it, chance decides.
    """
    if not config.execution_queues:
        return ""
    found = most_specific(
        attributes, MatchableResource.EXECUTION_QUEUE, project=project, domain=domain, workflow=workflow
    )
    wanted = [] if found is None else list(found.execution_queue_attributes.tags)
    configured = _configured(config.workflow_configs, project, domain, workflow)
    if configured is not None:
        wanted += configured.tags
    for tag in wanted:
        queues = [queue.dynamic for queue in config.execution_queues if tag in queue.attributes]
        if queues:
            return random.Random(execution_name).choice(queues)
    return ""


def _configured(
    configs: Iterable[WorkflowQueueConfig], project: str, domain: str, workflow: str
) -> WorkflowQueueConfig | None:
    """The entry that says most about the place; what an entry leaves empty is anything, and of equals the first wins.

    The reference knows entries of a domain and of all domains only, which come out the same.
    """
    best, most = None, -1
    for each in configs:
        parts = ((each.domain, domain), (each.project, project), (each.workflow_name, workflow))
        if all(said in ("", here) for said, here in parts):
            said = sum(bool(said) for said, _ in parts)
            if said > most:
                best, most = each, said
    return best
