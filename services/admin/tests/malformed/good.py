"""One or more good requests of every rpc, and the things in the control plane that they speak of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flyteidl.admin import (
    common_pb2,
    description_entity_pb2,
    event_pb2,
    execution_pb2,
    launch_plan_pb2,
    matchable_resource_pb2,
    node_execution_pb2,
    project_attributes_pb2,
    project_domain_attributes_pb2,
    project_pb2,
    signal_pb2,
    task_execution_pb2,
    task_pb2,
    version_pb2,
    workflow_attributes_pb2,
    workflow_pb2,
)
from flyteidl.event.event_pb2 import NodeExecutionEvent, TaskExecutionEvent, WorkflowExecutionEvent
from flyteidl.service import dataproxy_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from aerodrome.idl.items.v1 import items_pb2
from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.idl.retention.v1 import retention_pb2

PROJECT, DOMAIN = "flytesnacks", "development"
DONE = "done"
"""An execution that is over."""
DISPOSABLE = "disposable"
"""Another one, which may be deleted for good; deleting it again is accepted as well."""
ATTRIBUTED = "attributed"
"""A project that has attributes."""


class Good:
    """Makes requests that are accepted; what they create has a name that nothing had before."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._seconds = itertools.count(1)
        self.outside = "outside"
        """An execution on which an outside engine reports."""
        self.held = "held"
        """An execution that a session holds: the session, the execution's key, and what its journal expects next."""
        self.session_id = 0
        self.other_session_id = 0
        """A session that holds nothing."""
        self.execution_id = 0
        self.epoch = 0
        self.next_sequence = 1
        self.store = ""

    def fresh(self, prefix: str = "x") -> str:
        return f"{prefix}{next(self._numbers)}"

    def requests(self, rpc: str) -> Sequence[Message]:
        """Good requests of the rpc with this name."""
        made = REQUESTS[rpc](self)
        return [made] if isinstance(made, Message) else made

    # identifiers, as JSON

    def entity(self, kind: str, name: str, version: str = "v1") -> dict[str, Any]:
        return {"resourceType": kind, "project": PROJECT, "domain": DOMAIN, "name": name, "version": version}

    def key(self, name: str) -> dict[str, Any]:
        return {"project": PROJECT, "domain": DOMAIN, "name": name}

    def node(self, execution: str, node: str = "n0") -> dict[str, Any]:
        return {"executionId": self.key(execution), "nodeId": node}

    def attempt(self, execution: str, attempt: int = 0) -> dict[str, Any]:
        return {
            "taskId": self.entity("TASK", "t"), "nodeExecutionId": self.node(execution), "retryAttempt": attempt,
        }  # fmt: skip

    # registration

    def task(self, name: str = "") -> task_pb2.TaskCreateRequest:
        return parsed(task_pb2.TaskCreateRequest, {
            "id": self.entity("TASK", name or self.fresh("t")),
            "spec": {
                "template": {
                    "type": "python-task",
                    "metadata": {
                        "runtime": {"type": "FLYTE_SDK", "version": "1.16", "flavor": "python"}, "discoverable": True,
                        "discoveryVersion": "1", "timeout": "60s", "retries": {"retries": 2}, "interruptible": True,
                        "tags": {"a": "b"}, "cacheIgnoreInputVars": ["a"], "podTemplateName": "p",
                    },
                    "interface": interface(a=INTEGER, o=INTEGER),
                    "container": {
                        "image": "python:3.11", "command": ["run"], "args": ["--x", "{{.inputs.a}}"],
                        "env": [{"key": "A", "value": "b"}], "ports": [{"containerPort": 80, "name": "web"}],
                        "resources": {
                            "requests": [{"name": "CPU", "value": "1"}, {"name": "MEMORY", "value": "100Mi"}],
                            "limits": [{"name": "CPU", "value": "1"}],
                        },
                        "dataConfig": {"enabled": True, "inputPath": "/in", "outputPath": "/out"},
                    },
                    "config": {"k": "v"},
                    "custom": {"a": 1.5, "b": [True, None, {"c": "d"}]},
                    "securityContext": {
                        "runAs": {"iamRole": "r", "k8sServiceAccount": "s"},
                        "secrets": [{"group": "g", "key": "k", "mountRequirement": "ENV_VAR"}],
                    },
                    "extendedResources": {"gpuAccelerator": {"device": "t4"}, "sharedMemory": {"sizeLimit": "1Gi"}},
                },
                "description": {
                    "shortDescription": "short",
                    "longDescription": {"value": "long", "format": "DESCRIPTION_FORMAT_MARKDOWN"},
                    "sourceCode": {"link": "https://example.org"},
                },
            },
        })  # fmt: skip

    def pod_task(self) -> task_pb2.TaskCreateRequest:
        request = self.task()
        template = request.spec.template
        template.type = "sidecar"
        template.config["primary_container_name"] = "main"
        spec = {"containers": [{"name": "main", "image": "x", "resources": {"limits": {"cpu": "1"}}}]}
        template.k8s_pod.CopyFrom(parsed(type(template.k8s_pod), {"metadata": {"labels": {"a": "b"}}, "podSpec": spec}))
        return request

    def sql_task(self) -> task_pb2.TaskCreateRequest:
        request = self.task()
        request.spec.template.type = "snowflake"
        request.spec.template.sql.statement = "SELECT 1"
        return request

    def workflow(self, name: str = "") -> workflow_pb2.WorkflowCreateRequest:
        return parsed(workflow_pb2.WorkflowCreateRequest, {
            "id": self.entity("WORKFLOW", name or self.fresh("w")),
            "spec": {"template": {
                "interface": interface(a=INTEGER, o=INTEGER),
                "nodes": [{
                    "id": "n0", "metadata": {"name": "first", "timeout": "10s", "retries": {"retries": 1}},
                    "inputs": [bound("a", "", "a")], "taskNode": {"referenceId": self.entity("TASK", "t")},
                }],
                "outputs": [bound("o", "n0", "o")],
                "metadata": {"onFailure": "FAIL_IMMEDIATELY", "tags": {"a": "b"}},
                "metadataDefaults": {"interruptible": True},
            }},
        })  # fmt: skip

    def every_node(self) -> workflow_pb2.WorkflowCreateRequest:
        """A workflow with a node of each kind."""
        task = {"referenceId": self.entity("TASK", "t")}
        inner = {
            "id": self.entity("WORKFLOW", "inner"),
            "interface": interface(a=INTEGER, o=INTEGER),
            "nodes": [{"id": "n0", "inputs": [bound("a", "", "a")], "taskNode": task}],
            "outputs": [bound("o", "n0", "o")],
        }
        arm = {"id": "arm", "inputs": [bound("a", "", "a")], "taskNode": task}
        other = {"id": "other", "inputs": [bound("a", "n0", "o")], "taskNode": task}
        comparison = {"operator": "GT", "leftValue": {"var": "x"}, "rightValue": {"primitive": {"integer": 3}}}
        return parsed(workflow_pb2.WorkflowCreateRequest, {
            "id": self.entity("WORKFLOW", self.fresh("w")),
            "spec": {
                "template": {
                    "interface": interface(a=INTEGER, l={"collectionType": INTEGER}, o=INTEGER),
                    "nodes": [
                        {
                            "id": "n0", "inputs": [bound("a", "", "a")],
                            "taskNode": {
                                **task, "overrides": {
                                    "resources": {"requests": [{"name": "CPU", "value": "1"}]},
                                    "containerImage": "y", "podTemplate": {"primaryContainerName": "p"},
                                },
                            },
                        },
                        {
                            "id": "n1", "inputs": [bound("a", "n0", "o")], "upstreamNodeIds": ["n0"],
                            "workflowNode": {"subWorkflowRef": self.entity("WORKFLOW", "inner")},
                        },
                        {
                            "id": "n2", "inputs": [bound("a", "n1", "o")],
                            "workflowNode": {"launchplanRef": self.entity("LAUNCH_PLAN", "lp")},
                        },
                        {
                            "id": "n3", "inputs": [bound("x", "n0", "o"), bound("a", "", "a")],
                            "branchNode": {"ifElse": {
                                "case": {
                                    "condition": {"conjunction": {
                                        "operator": "AND", "leftExpression": {"comparison": comparison},
                                        "rightExpression": {"comparison": comparison},
                                    }},
                                    "thenNode": arm,
                                },
                                "other": [{"condition": {"comparison": comparison}, "thenNode": other}],
                                "error": {"failedNodeId": "n3", "message": "none"},
                            }},
                        },
                        {
                            "id": "n4",
                            "gateNode": {"signal": {"signalId": "s", "type": INTEGER, "outputVariableName": "o0"}},
                        },
                        {"id": "n5", "gateNode": {"sleep": {"duration": "10s"}}, "upstreamNodeIds": ["n4"]},
                        {"id": "n6", "gateNode": {"approve": {"signalId": "yes"}}},
                        {
                            "id": "n7", "inputs": [bound("a", "", "l")],
                            "arrayNode": {
                                "node": {"id": "n7-n", "taskNode": task, "inputs": [bound("a", "", "l")]},
                                "parallelism": 3, "minSuccessRatio": 0.5, "executionMode": "FULL_STATE",
                                "isOriginalSubNodeInterface": True,
                            },
                        },
                    ],
                    "outputs": [bound("o", "n1", "o")],
                    "failureNode": {"id": "fail", "inputs": [bound("a", "", "a")], "taskNode": task},
                },
                "subWorkflows": [inner],
            },
        })  # fmt: skip

    def launch_plan(self, name: str = "") -> launch_plan_pb2.LaunchPlanCreateRequest:
        return parsed(launch_plan_pb2.LaunchPlanCreateRequest, {
            "id": self.entity("LAUNCH_PLAN", name or self.fresh("lp")),
            "spec": {
                "workflowId": self.entity("WORKFLOW", "w"),
                "entityMetadata": {"notifications": [
                    {"phases": ["FAILED"], "email": {"recipientsEmail": ["a@example.org"]}},
                    {"phases": ["SUCCEEDED"], "slack": {"recipientsEmail": ["a@example.org"]}},
                ]},
                "defaultInputs": {"parameters": {"a": {"var": {"type": INTEGER}, "default": number(3)}}},
                "labels": {"values": {"a": "b"}}, "annotations": {"values": {"c": "d"}},
                "authRole": {"kubernetesServiceAccount": "s"},
                "securityContext": {"runAs": {"iamRole": "r"}},
                "qualityOfService": {"spec": {"queueingBudget": "60s"}},
                "rawOutputDataConfig": {"outputLocationPrefix": ""},
                "maxParallelism": 5, "interruptible": True, "overwriteCache": True,
                "envs": {"values": [{"key": "A", "value": "b"}]},
                "clusterAssignment": {"clusterPoolName": ""},
            },
        })  # fmt: skip

    def scheduled(self, schedule: dict[str, Any]) -> launch_plan_pb2.LaunchPlanCreateRequest:
        request = self.launch_plan()
        request.spec.entity_metadata.MergeFrom(
            parsed(launch_plan_pb2.LaunchPlanMetadata, {"schedule": {**schedule, "kickoffTimeInputArg": ""}})
        )
        return request

    def fixed(self) -> launch_plan_pb2.LaunchPlanCreateRequest:
        request = self.launch_plan()
        request.spec.ClearField("default_inputs")
        request.spec.fixed_inputs.MergeFrom(parsed(type(request.spec.fixed_inputs), {"literals": {"a": number(1)}}))
        return request

    # executions

    def execution(self, name: str = "", launch: str = "lp", kind: str = "LAUNCH_PLAN") -> Any:
        return parsed(execution_pb2.ExecutionCreateRequest, {
            "project": PROJECT, "domain": DOMAIN, "name": name or self.fresh("e"),
            "inputs": {"literals": {"a": number(1)}},
            "spec": {
                "launchPlan": self.entity(kind, launch),
                "metadata": {"mode": "MANUAL", "principal": "p", "nesting": 0},
                "notifications": {"notifications": [{"phases": ["FAILED"], "email": {"recipientsEmail": ["a@b.c"]}}]},
                "labels": {"values": {"a": "b"}}, "annotations": {"values": {"c": "d"}},
                "securityContext": {"runAs": {"iamRole": "r"}}, "authRole": {"kubernetesServiceAccount": "s"},
                "qualityOfService": {"tier": "HIGH"}, "maxParallelism": 3,
                "rawOutputDataConfig": {"outputLocationPrefix": ""}, "clusterAssignment": {"clusterPoolName": ""},
                "interruptible": True, "overwriteCache": True, "envs": {"values": [{"key": "A", "value": "b"}]},
                "tags": ["x"], "executionEnvAssignments": [{"nodeIds": ["n0"], "taskType": "t"}],
            },
        })  # fmt: skip

    def child(self) -> Any:
        request = self.execution()
        request.spec.metadata.mode = execution_pb2.ExecutionMetadata.CHILD_WORKFLOW
        request.spec.metadata.parent_node_execution.MergeFrom(
            parsed(node_execution_pb2.NodeExecution, {"id": self.node(self.outside)}).id
        )
        return request

    def of_a_task(self) -> Any:
        return self.execution(launch="t", kind="TASK")

    # events

    def time(self) -> str:
        second = next(self._seconds)
        return (
            f"2026-01-{1 + second // 86_400 % 28:02}T{second // 3_600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}Z"
        )

    def workflow_event(self, execution: str = "", phase: str = "RUNNING", **more: Any) -> WorkflowExecutionEvent:
        return parsed(WorkflowExecutionEvent, {
            "executionId": self.key(execution or self.outside), "producerId": "propeller", "phase": phase,
            "occurredAt": self.time(),
        } | more)  # fmt: skip

    def node_event(
        self, execution: str = "", node: str = "n0", phase: str = "RUNNING", **more: Any
    ) -> NodeExecutionEvent:
        return parsed(NodeExecutionEvent, {
            "id": self.node(execution or self.outside, node), "producerId": "propeller", "phase": phase,
            "occurredAt": self.time(), "reportedAt": "2026-02-01T00:00:00Z", "specNodeId": node, "nodeName": "first",
            "eventVersion": 1, "retryGroup": "0", "inputUri": "/in",
        } | more)  # fmt: skip

    def task_event(
        self, execution: str = "", node: str = "n0", phase: str = "RUNNING", attempt: int = 0, **more: Any
    ) -> TaskExecutionEvent:
        return parsed(TaskExecutionEvent, {
            "taskId": self.entity("TASK", "t"), "parentNodeExecutionId": self.node(execution or self.outside, node),
            "retryAttempt": attempt, "phase": phase, "producerId": "propeller", "occurredAt": self.time(),
            "reportedAt": "2026-02-01T00:00:00Z", "taskType": "python-task", "reason": "because",
            "reasons": [{"reason": "r", "occurredAt": "2026-01-01T00:00:00Z"}], "eventVersion": 1,
            "logs": [{"uri": "http://logs", "name": "log", "ttl": "60s"}], "customInfo": {"a": 1},
            "phaseVersion": next(self._numbers) if phase == "RUNNING" else 0, "inputUri": "/in",
            "metadata": {
                "generatedName": "g", "pluginIdentifier": "container",
                "externalResources": [{"externalId": "x", "index": 1, "retryAttempt": 0, "phase": "RUNNING"}],
                "resourcePoolInfo": [{"allocationToken": "a", "namespace": "n"}],
            },
        } | more)  # fmt: skip

    def finished_node(self, execution: str, node: str) -> NodeExecutionEvent:
        cached = {
            "cacheStatus": "CACHE_POPULATED",
            "catalogKey": {"datasetId": self.entity("DATASET", "d"), "artifactTag": {"artifactId": "a", "name": "n"}},
        }
        return self.node_event(
            execution,
            node,
            "SUCCEEDED",
            outputData={"literals": {"o": number(1)}},
            taskNodeMetadata=cached,
            deckUri="/deck",
        )

    def dynamic_node(self, execution: str, node: str) -> NodeExecutionEvent:
        compiled = {"primary": {"template": {"id": self.entity("WORKFLOW", "dyn")}}}
        dynamic = {"id": self.entity("WORKFLOW", "dyn"), "compiledWorkflow": compiled, "dynamicJobSpecUri": "/futures"}
        return self.node_event(execution, node, "DYNAMIC_RUNNING", taskNodeMetadata={"dynamicWorkflow": dynamic})

    # the journal

    def append(self, *transitions: dict[str, Any] | journal_pb2.Transition) -> journal_pb2.AppendRequest:
        append = journal_pb2.ExecutionAppend(
            execution_id=self.execution_id, epoch=self.epoch, first_sequence=self.next_sequence
        )
        for each in transitions:
            append.transitions.append(journal_pb2.Transition(**each) if isinstance(each, dict) else each)
        return journal_pb2.AppendRequest(session_id=self.session_id, executions=[append])

    def appends(self) -> list[Message]:
        node = self.fresh("n")
        running = journal_pb2.NodeChange(
            node_id=node, event=self.node_event(self.held, node).SerializeToString(), state=b"state"
        )
        task = journal_pb2.TaskChange(
            node_id=node, event=self.task_event(self.held, node).SerializeToString(), state=b"state"
        )
        finished = journal_pb2.NodeChange(
            node_id=node, event=self.finished_node(self.held, node).SerializeToString(), state=b"state"
        )
        items = journal_pb2.ItemsChange(
            node_id=node, ranges=[journal_pb2.ItemRange(first=0, last=3, phase=2, log_uri="/log", error=b"")]
        )
        workflow = journal_pb2.WorkflowChange(event=self.workflow_event(self.held).SerializeToString(), state=b"state")
        return [
            self.append({"workflow": workflow}),
            self.append({"node": running}),
            self.append({"node": running}, {"task": task}),
            self.append({"node": running}, {"task": task}, {"items": items}, {"node": finished}),
            self.append({"node": journal_pb2.NodeChange(node_id=node, state=b"only state")}),
        ]

    def lease_keys(self) -> list[journal_pb2.LeaseKey]:
        return [journal_pb2.LeaseKey(execution_id=self.execution_id, epoch=self.epoch + 1)]


INTEGER = {"simple": "INTEGER"}


def parsed(kind: type[Any], value: dict[str, Any]) -> Any:
    return ParseDict(value, kind())


def interface(**types: dict[str, Any]) -> dict[str, Any]:
    """Inputs, except for `o`, which is the output."""
    inputs = {name: {"type": kind} for name, kind in types.items() if name != "o"}
    outputs = {name: {"type": kind} for name, kind in types.items() if name == "o"}
    return {"inputs": {"variables": inputs}, "outputs": {"variables": outputs}}


def bound(name: str, node: str, source: str) -> dict[str, Any]:
    return {"var": name, "binding": {"promise": {"nodeId": node, "var": source}}}


def number(value: int) -> dict[str, Any]:
    return {"scalar": {"primitive": {"integer": value}}}


def listing(good: Good) -> list[Message]:
    request = parsed(common_pb2.ResourceListRequest, {
        "id": {"project": PROJECT, "domain": DOMAIN}, "limit": 5,
        "sortBy": {"key": "created_at", "direction": "ASCENDING"}, "filters": "ne(name,x)",
    })  # fmt: skip
    named = parsed(common_pb2.ResourceListRequest, {"id": good.key("t"), "limit": 1, "token": "1"})
    return [request, named]


def ids(good: Good) -> Message:
    return parsed(common_pb2.NamedEntityIdentifierListRequest, {"project": PROJECT, "domain": DOMAIN, "limit": 5})


def attributes(more: dict[str, Any]) -> dict[str, Any]:
    return {
        "attributes": {
            "project": ATTRIBUTED, "matchingAttributes": {"taskResourceAttributes": {"defaults": {"cpu": "1"}}}, **more,
        },
    }  # fmt: skip


def asked(more: dict[str, Any]) -> dict[str, Any]:
    return {"project": ATTRIBUTED, "resourceType": "TASK_RESOURCE", **more}


_D = {"domain": DOMAIN}
_W = {"domain": DOMAIN, "workflow": "w"}

PLACE = {"project": PROJECT, "domain": DOMAIN}
POLICY = PLACE | {"keepExecutionsDays": 30_000, "keepBlobsDays": 20_000}


REQUESTS: Mapping[str, Callable[[Good], Message | Sequence[Message]]] = {
    "CreateTask": lambda g: [g.task(), g.pod_task(), g.sql_task()],
    "CreateWorkflow": lambda g: [g.workflow(), g.every_node(), g.every_node()],
    "CreateLaunchPlan": lambda g: [
        g.launch_plan(), g.fixed(), g.scheduled({"cronSchedule": {"schedule": "0 0 * * *"}}),
        g.scheduled({"rate": {"value": 3, "unit": "HOUR"}}), g.scheduled({"cronExpression": "0 0 * * *"}),
    ],
    "UpdateLaunchPlan": lambda g: [
        parsed(launch_plan_pb2.LaunchPlanUpdateRequest, {"id": g.entity("LAUNCH_PLAN", "lp"), "state": state})
        for state in ("ACTIVE", "INACTIVE")
    ],
    "CreateExecution": lambda g: [g.execution(), g.child(), g.of_a_task()],
    "RelaunchExecution": lambda g: parsed(
        execution_pb2.ExecutionRelaunchRequest, {"id": g.key(DONE), "name": g.fresh("e"), "overwriteCache": True}
    ),
    "RecoverExecution": lambda g: parsed(execution_pb2.ExecutionRecoverRequest, {
        "id": g.key(DONE), "name": g.fresh("e"), "metadata": {"parentNodeExecution": g.node(g.outside)},
    }),
    "UpdateExecution": lambda g: parsed(
        execution_pb2.ExecutionUpdateRequest, {"id": g.key(DONE), "state": "EXECUTION_ARCHIVED"}
    ),
    "TerminateExecution": lambda g: parsed(
        execution_pb2.ExecutionTerminateRequest, {"id": g.key(g.outside), "cause": "why not"}
    ),
    "CreateWorkflowEvent": lambda g: [
        event_pb2.WorkflowExecutionEventRequest(event=g.workflow_event(phase="SUCCEEDING"), request_id="r"),
        event_pb2.WorkflowExecutionEventRequest(
            event=g.workflow_event(phase="FAILING", error={"code": "c", "message": "m", "kind": "USER"})
        ),
        event_pb2.WorkflowExecutionEventRequest(
            event=g.workflow_event(phase="SUCCEEDED", outputData={"literals": {"o": number(1)}})
        ),
    ],
    "CreateNodeEvent": lambda g: [
        event_pb2.NodeExecutionEventRequest(event=g.node_event(node=g.fresh("n")), request_id="r"),
        event_pb2.NodeExecutionEventRequest(event=g.finished_node(g.outside, g.fresh("n"))),
        event_pb2.NodeExecutionEventRequest(event=g.dynamic_node(g.outside, g.fresh("n"))),
        event_pb2.NodeExecutionEventRequest(event=g.node_event(
            node=g.fresh("n"), parentNodeMetadata={"nodeId": "n0"}, isParent=True,
            inputUri=None, inputData={"literals": {"a": number(1)}},
        )),
        event_pb2.NodeExecutionEventRequest(event=g.node_event(
            node=g.fresh("n"), workflowNodeMetadata={"executionId": g.key(DONE)}, isDynamic=True,
        )),
    ],
    "CreateTaskEvent": lambda g: [
        event_pb2.TaskExecutionEventRequest(event=g.task_event(), request_id="r"),
        event_pb2.TaskExecutionEventRequest(event=g.task_event(attempt=int(g.fresh("")))),
        event_pb2.TaskExecutionEventRequest(event=g.task_event(
            attempt=int(g.fresh("")), phase="SUCCEEDED", outputData={"literals": {"o": number(1)}},
        )),
        event_pb2.TaskExecutionEventRequest(event=g.task_event(
            attempt=int(g.fresh("")), phase="FAILED", error={"code": "c", "message": "m", "errorUri": "/e"},
        )),
    ],
    "GetTask": lambda g: parsed(common_pb2.ObjectGetRequest, {"id": g.entity("TASK", "t")}),
    "GetWorkflow": lambda g: parsed(common_pb2.ObjectGetRequest, {"id": g.entity("WORKFLOW", "w")}),
    "GetLaunchPlan": lambda g: parsed(common_pb2.ObjectGetRequest, {"id": g.entity("LAUNCH_PLAN", "lp")}),
    "GetDescriptionEntity": lambda g: parsed(common_pb2.ObjectGetRequest, {"id": g.entity("TASK", "t")}),
    "GetActiveLaunchPlan": lambda g: parsed(launch_plan_pb2.ActiveLaunchPlanRequest, {"id": g.key("active")}),
    "ListActiveLaunchPlans": lambda g: parsed(launch_plan_pb2.ActiveLaunchPlanListRequest, {
        "project": PROJECT, "domain": DOMAIN, "limit": 3, "sortBy": {"key": "name"},
    }),
    "ListTaskIds": ids, "ListWorkflowIds": ids, "ListLaunchPlanIds": ids,
    "ListTasks": listing, "ListWorkflows": listing, "ListLaunchPlans": listing,
    "ListExecutions": lambda g: parsed(common_pb2.ResourceListRequest, {
        "id": {"project": PROJECT, "domain": DOMAIN}, "limit": 5,
        "sortBy": {"key": "created_at"}, "filters": "value_in(phase,RUNNING;FAILED)+ne(launch_plan.name,x)",
    }),
    "GetExecution": lambda g: parsed(execution_pb2.WorkflowExecutionGetRequest, {"id": g.key(DONE)}),
    "GetExecutionData": lambda g: [
        parsed(execution_pb2.WorkflowExecutionGetDataRequest, {"id": g.key(each)}) for each in (DONE, g.outside)
    ],
    "GetExecutionMetrics": lambda g: parsed(
        execution_pb2.WorkflowExecutionGetMetricsRequest, {"id": g.key(DONE), "depth": 3}
    ),
    "GetNodeExecution": lambda g: parsed(node_execution_pb2.NodeExecutionGetRequest, {"id": g.node(DONE)}),
    "GetDynamicNodeWorkflow": lambda g: parsed(
        node_execution_pb2.GetDynamicNodeWorkflowRequest, {"id": g.node(DONE, "dynamic")}
    ),
    "ListNodeExecutions": lambda g: parsed(node_execution_pb2.NodeExecutionListRequest, {
        "workflowExecutionId": g.key(DONE), "limit": 5, "filters": "eq(phase,SUCCEEDED)",
        "sortBy": {"key": "created_at"}, "uniqueParentId": "",
    }),
    "ListNodeExecutionsForTask": lambda g: parsed(node_execution_pb2.NodeExecutionForTaskListRequest, {
        "taskExecutionId": g.attempt(DONE), "limit": 5, "filters": "eq(phase,SUCCEEDED)",
        "sortBy": {"key": "created_at"},
    }),
    "GetNodeExecutionData": lambda g: parsed(node_execution_pb2.NodeExecutionGetDataRequest, {"id": g.node(DONE)}),
    "GetTaskExecution": lambda g: parsed(task_execution_pb2.TaskExecutionGetRequest, {"id": g.attempt(DONE)}),
    "ListTaskExecutions": lambda g: parsed(task_execution_pb2.TaskExecutionListRequest, {
        "nodeExecutionId": g.node(DONE), "limit": 5, "filters": "eq(phase,SUCCEEDED)", "sortBy": {"key": "created_at"},
    }),
    "GetTaskExecutionData": lambda g: parsed(task_execution_pb2.TaskExecutionGetDataRequest, {"id": g.attempt(DONE)}),
    "RegisterProject": lambda g: parsed(project_pb2.ProjectRegisterRequest, {"project": {
        "id": g.fresh("p"), "name": "a project", "description": "x", "labels": {"values": {"a": "b"}},
    }}),
    "UpdateProject": lambda g: parsed(project_pb2.Project, {
        "id": "spare", "name": "a project", "description": "x", "labels": {"values": {"a": "b"}}, "state": "ARCHIVED",
    }),
    "GetProject": lambda g: parsed(project_pb2.ProjectGetRequest, {"id": PROJECT}),
    "ListProjects": lambda g: parsed(project_pb2.ProjectListRequest, {
        "limit": 3, "filters": "eq(name,p)", "sortBy": {"key": "name"},
    }),
    "GetDomains": lambda g: project_pb2.GetDomainRequest(),
    "GetVersion": lambda g: version_pb2.GetVersionRequest(),
    "UpdateNamedEntity": lambda g: parsed(common_pb2.NamedEntityUpdateRequest, {
        "resourceType": "WORKFLOW", "id": g.key("w"),
        "metadata": {"description": "x", "state": "NAMED_ENTITY_ARCHIVED"},
    }),
    "GetNamedEntity": lambda g: parsed(
        common_pb2.NamedEntityGetRequest, {"resourceType": "TASK", "id": g.key("t")}
    ),
    "ListNamedEntities": lambda g: parsed(common_pb2.NamedEntityListRequest, {
        "resourceType": "TASK", "project": PROJECT, "domain": DOMAIN, "limit": 4, "filters": "eq(state,0)",
        "sortBy": {"key": "name"},
    }),
    "ListDescriptionEntities": lambda g: parsed(description_entity_pb2.DescriptionEntityListRequest, {
        "resourceType": "TASK", "id": {"project": PROJECT, "domain": DOMAIN, "name": "t"}, "limit": 4,
    }),
    "UpdateProjectDomainAttributes": lambda g: parsed(
        project_domain_attributes_pb2.ProjectDomainAttributesUpdateRequest, attributes(_D)
    ),
    "GetProjectDomainAttributes": lambda g: parsed(
        project_domain_attributes_pb2.ProjectDomainAttributesGetRequest, asked(_D)
    ),
    "DeleteProjectDomainAttributes": lambda g: parsed(
        project_domain_attributes_pb2.ProjectDomainAttributesDeleteRequest, asked(_D)
    ),
    "UpdateProjectAttributes": lambda g: parsed(
        project_attributes_pb2.ProjectAttributesUpdateRequest, attributes({})
    ),
    "GetProjectAttributes": lambda g: parsed(project_attributes_pb2.ProjectAttributesGetRequest, asked({})),
    "DeleteProjectAttributes": lambda g: parsed(project_attributes_pb2.ProjectAttributesDeleteRequest, asked({})),
    "UpdateWorkflowAttributes": lambda g: parsed(
        workflow_attributes_pb2.WorkflowAttributesUpdateRequest, attributes(_W)
    ),
    "GetWorkflowAttributes": lambda g: parsed(workflow_attributes_pb2.WorkflowAttributesGetRequest, asked(_W)),
    "DeleteWorkflowAttributes": lambda g: parsed(workflow_attributes_pb2.WorkflowAttributesDeleteRequest, asked(_W)),
    "ListMatchableAttributes": lambda g: parsed(
        matchable_resource_pb2.ListMatchableAttributesRequest, {"resourceType": "TASK_RESOURCE"}
    ),
    "CreateUploadLocation": lambda g: [
        parsed(dataproxy_pb2.CreateUploadLocationRequest, {
            "project": PROJECT, "domain": DOMAIN, "filename": "f.txt", "expiresIn": "60s",
            "contentMd5": "AAECAwQFBgcICQoLDA0ODw==", "filenameRoot": "root", "addContentMd5Metadata": True,
        }),
        parsed(dataproxy_pb2.CreateUploadLocationRequest, {
            "project": PROJECT, "domain": DOMAIN, "contentMd5": "AAECAwQFBgcICQoLDA0ODw==",
        }),
    ],
    "CreateDownloadLocation": lambda g: parsed(
        dataproxy_pb2.CreateDownloadLocationRequest, {"nativeUrl": f"{g.store}/file", "expiresIn": "60s"}
    ),
    "CreateDownloadLink": lambda g: parsed(dataproxy_pb2.CreateDownloadLinkRequest, {
        "artifactType": "ARTIFACT_TYPE_DECK", "nodeExecutionId": g.node(DONE), "expiresIn": "60s",
    }),
    "GetData": lambda g: [
        dataproxy_pb2.GetDataRequest(flyte_url=f"flyte://v1/{PROJECT}/{DOMAIN}/{DONE}/n0/{rest}")
        for rest in ("i", "o", "o/o", "0/o", "d")
    ],
    "GetOrCreateSignal": lambda g: parsed(
        signal_pb2.SignalGetOrCreateRequest,
        {"id": {"signalId": "s", "executionId": g.key(g.held)}, "type": {"simple": "INTEGER"}},
    ),
    "ListSignals": lambda g: parsed(signal_pb2.SignalListRequest, {
        "workflowExecutionId": g.key(g.held), "limit": 3, "filters": "ne(signal_id,x)", "sortBy": {"key": "signal_id"},
    }),
    "SetSignal": lambda g: parsed(signal_pb2.SignalSetRequest, {
        "id": {"signalId": "s", "executionId": g.key(g.held)}, "value": {"scalar": {"primitive": {"integer": 1}}},
    }),
    "OpenSession": lambda g: journal_pb2.OpenSessionRequest(cluster="other", holder="h"),
    "Heartbeat": lambda g: journal_pb2.HeartbeatRequest(session_id=g.session_id),
    "CloseSession": lambda g: journal_pb2.CloseSessionRequest(session_id=g.other_session_id),
    "Lease": lambda g: journal_pb2.LeaseRequest(session_id=g.other_session_id, capacity=1),
    "Append": lambda g: g.appends(),
    "Release": lambda g: journal_pb2.ReleaseRequest(session_id=g.session_id, leases=g.lease_keys()),
    "HandOver": lambda g: journal_pb2.HandOverRequest(
        session_id=g.session_id, leases=g.lease_keys(), cluster="other"
    ),
    "Recall": lambda g: journal_pb2.RecallRequest(project=PROJECT, domain=DOMAIN, name=DONE, limit=1),
    "SetPolicy": lambda g: parsed(retention_pb2.SetPolicyRequest, {"policy": POLICY}),
    "GetPolicy": lambda g: parsed(retention_pb2.GetPolicyRequest, PLACE),
    "ListPolicies": lambda g: retention_pb2.ListPoliciesRequest(project=PROJECT),
    "DeletePolicy": lambda g: parsed(retention_pb2.DeletePolicyRequest, PLACE),
    "PinExecution": lambda g: parsed(retention_pb2.PinExecutionRequest, {"execution": g.key(DONE), "reason": "why"}),
    "UnpinExecution": lambda g: parsed(retention_pb2.UnpinExecutionRequest, {"execution": g.key(DONE)}),
    "DryRun": lambda g: parsed(
        retention_pb2.DryRunRequest, PLACE | {"policy": {"keepBlobsDays": 3}, "measuredExecutions": 2}
    ),
    "DeleteExecution": lambda g: parsed(retention_pb2.DeleteExecutionRequest, {"execution": g.key(DISPOSABLE)}),
    "ListDeletions": lambda g: parsed(retention_pb2.ListDeletionsRequest, PLACE | {"limit": 3, "token": "7"}),
    "ListItems": lambda g: parsed(items_pb2.ListItemsRequest, {
        "nodeExecutionId": {**g.key(DONE), "nodeId": "n0"}, "phases": ["FAILED", "RUNNING"], "limit": 3,
    }),
}  # fmt: skip
"""By the name of the rpc."""
