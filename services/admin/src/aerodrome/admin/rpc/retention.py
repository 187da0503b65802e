"""RetentionService: policies, pins, and deleting executions for good."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain import retention
from aerodrome.admin.domain.validation import missing
from aerodrome.admin.managers.retention import Due, RetentionManager
from aerodrome.idl.retention.v1.retention_pb2 import (
    DeleteExecutionRequest,
    DeleteExecutionResponse,
    DeletePolicyRequest,
    DeletePolicyResponse,
    Deletion,
    DeletionCause,
    DeletionKind,
    DryRunRequest,
    DryRunResponse,
    DuePlace,
    ExecutionKey,
    GetPolicyRequest,
    GetPolicyResponse,
    ListDeletionsRequest,
    ListDeletionsResponse,
    ListPoliciesRequest,
    ListPoliciesResponse,
    PinExecutionRequest,
    PinExecutionResponse,
    Policy,
    SetPolicyRequest,
    SetPolicyResponse,
    UnpinExecutionRequest,
    UnpinExecutionResponse,
)
from aerodrome.idl.retention.v1.retention_pb2_grpc import RetentionServiceServicer
from aerodrome.stdlib.postgres.database import Record
from aerodrome.stdlib.rpc.context import identity

_KINDS = {"execution": DeletionKind.DELETION_KIND_EXECUTION, "blobs": DeletionKind.DELETION_KIND_BLOBS}
_CAUSES = {"request": DeletionCause.DELETION_CAUSE_REQUEST, "policy": DeletionCause.DELETION_CAUSE_POLICY}


class RetentionRpcs(RetentionServiceServicer):
    """The servicer of aerodrome.retention.v1.RetentionService."""

    def __init__(self, manager: RetentionManager) -> None:
        self._retention = manager

    async def SetPolicy(self, request: SetPolicyRequest, context: Any) -> SetPolicyResponse:
        if not request.HasField("policy"):
            raise missing("policy")
        policy = await self._retention.set_policy(_policy(request.policy), identity().user_id)
        return SetPolicyResponse(policy=_policy_message(policy))

    async def GetPolicy(self, request: GetPolicyRequest, context: Any) -> GetPolicyResponse:
        return GetPolicyResponse(
            policy=_policy_message(await self._retention.get_policy(request.project, request.domain))
        )

    async def ListPolicies(self, request: ListPoliciesRequest, context: Any) -> ListPoliciesResponse:
        return ListPoliciesResponse(policies=map(_policy_message, await self._retention.list_policies(request.project)))

    async def DeletePolicy(self, request: DeletePolicyRequest, context: Any) -> DeletePolicyResponse:
        was_set = await self._retention.delete_policy(request.project, request.domain, identity().user_id)
        return DeletePolicyResponse(was_set=was_set)

    async def PinExecution(self, request: PinExecutionRequest, context: Any) -> PinExecutionResponse:
        key = request.execution
        await self._retention.pin(key.project, key.domain, key.name, request.reason, identity().user_id)
        return PinExecutionResponse()

    async def UnpinExecution(self, request: UnpinExecutionRequest, context: Any) -> UnpinExecutionResponse:
        key = request.execution
        return UnpinExecutionResponse(was_pinned=await self._retention.unpin(key.project, key.domain, key.name))

    async def DryRun(self, request: DryRunRequest, context: Any) -> DryRunResponse:
        tried = _policy(request.policy) if request.HasField("policy") else None
        found = await self._retention.dry_run(request.project, request.domain, tried, request.measured_executions)
        return DryRunResponse(places=map(_due_message, found.places), truncated=found.truncated)

    async def DeleteExecution(self, request: DeleteExecutionRequest, context: Any) -> DeleteExecutionResponse:
        key = request.execution
        rows = await self._retention.delete_execution(key.project, key.domain, key.name, identity().user_id)
        return DeleteExecutionResponse(deletions=map(_deletion_message, rows))

    async def ListDeletions(self, request: ListDeletionsRequest, context: Any) -> ListDeletionsResponse:
        rows, token = await self._retention.list_deletions(
            request.project, request.domain, request.limit, request.token, unfinished_only=request.unfinished_only
        )
        return ListDeletionsResponse(deletions=map(_deletion_message, rows), token=token)


def _policy(message: Policy) -> retention.Policy:
    return retention.Policy(
        project=message.project,
        domain=message.domain,
        keep_executions_days=message.keep_executions_days if message.HasField("keep_executions_days") else None,
        keep_blobs_days=message.keep_blobs_days if message.HasField("keep_blobs_days") else None,
    )


def _policy_message(policy: retention.Policy) -> Policy:
    return Policy(
        project=policy.project,
        domain=policy.domain,
        keep_executions_days=policy.keep_executions_days,
        keep_blobs_days=policy.keep_blobs_days,
        updated_at=_instant(policy.updated_at),
        updated_by=policy.updated_by,
    )


def _due_message(due: Due) -> DuePlace:
    return DuePlace(
        project=due.project,
        domain=due.domain,
        executions=due.executions,
        blobs_only=due.blobs_only,
        kept=due.kept,
        oldest=_instant(due.oldest),
        measured_executions=due.measured,
        blobs=due.blobs,
        blob_bytes=due.blob_bytes,
    )


def _deletion_message(row: Record) -> Deletion:
    return Deletion(
        execution=ExecutionKey(project=row["project"], domain=row["domain"], name=row["name"]),
        kind=_KINDS[row["kind"]],
        cause=_CAUSES[row["cause"]],
        requested_by=row["requested_by"],
        requested_at=_instant(row["requested_at"]),
        finished_at=_instant(row["finished_at"]),
        last_error=row["last_error"],
        blobs=row["blobs"],
        blob_bytes=row["blob_bytes"],
        rows=row["rows"],
    )


def _instant(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    message = Timestamp()
    message.FromDatetime(instant)
    return message
