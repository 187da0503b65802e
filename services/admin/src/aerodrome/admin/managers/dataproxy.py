"""Where clients put files and get them: signed locations, links to decks, and `flyte://` addresses.

Nothing is signed outside of the store's own containers, and nothing is uploaded among the platform's own objects.
Source: spec/control-plane.md, section 9.
"""

from __future__ import annotations

import base64
import secrets
import string
from datetime import timedelta

from flyteidl.core.identifier_pb2 import TaskExecutionIdentifier
from flyteidl.service.dataproxy_pb2 import (
    ARTIFACT_TYPE_DECK,
    CreateDownloadLinkRequest,
    CreateDownloadLinkResponse,
    CreateDownloadLocationRequest,
    CreateDownloadLocationResponse,
    CreateUploadLocationRequest,
    CreateUploadLocationResponse,
    GetDataRequest,
    GetDataResponse,
    PreSignedURLs,
)
from google.protobuf.duration_pb2 import Duration

from aerodrome.admin.config import DataProxyConfig
from aerodrome.admin.domain.flyte_urls import FlyteUrl, Part, parse_flyte_url
from aerodrome.admin.domain.validation import check_node_execution_id, check_text, missing, proto_text
from aerodrome.admin.managers.data import DataManager
from aerodrome.admin.managers.reading import ReadingManager
from aerodrome.admin.repositories.task_executions import TaskExecutionViews
from aerodrome.stdlib.errors import AerodromeError, AlreadyExists, Internal, InvalidArgument, NotFound, PermissionDenied
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.storage import Metadata, Storage

MAX_LOCATION_BYTES = 1_000
"""Longest path of an upload below the store's base; S3 allows 1,024 bytes for the whole key."""
MAX_ELEMENT_BYTES = 255
"""Longest name of a file or directory on a local disk."""
MAX_REFERENCE_CHARS = 4_096
"""Longest `native_url` that is looked at."""


class DataProxyManager:
    """Signs, and resolves addresses.

    `reserved` are the first path elements under which the platform keeps its own objects, such as `metadata`.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        config: DataProxyConfig,
        *,
        reading: ReadingManager,
        data: DataManager,
        reserved: frozenset[str] = frozenset({"metadata"}),
    ) -> None:
        self._storage = storage
        self._config = config
        self._reading = reading
        self._data = data
        self._tasks = TaskExecutionViews(database)
        self._reserved = reserved

    async def create_upload_location(self, request: CreateUploadLocationRequest) -> CreateUploadLocationResponse:
        """Where to PUT a file, and how it will be referred to.

        Raises InvalidArgument; AlreadyExists if the path is determined by the request and holds other content.
        """
        if not request.project or not request.domain:
            raise InvalidArgument("project and domain are required parameters")
        md5 = request.content_md5
        if not md5 and not request.filename_root:
            raise InvalidArgument("content_md5 or filename_root is a required parameter")
        if md5 and len(md5) != 16:
            raise InvalidArgument(f"content_md5 holds the 16 bytes of an MD5, not {len(md5)}")
        expires_in = _expiry(request.expires_in, self._config.upload.max_expires_in)
        location = self._location(request)
        if request.filename and request.filename_root:
            await self._check_rewrite(location, md5)
        signed = await self._storage.sign_upload(
            location,
            expires_in=expires_in,
            content_md5=md5 or None,
            add_md5_metadata=request.add_content_md5_metadata,
        )
        answer = CreateUploadLocationResponse(signed_url=signed.url, native_url=location, headers=dict(signed.headers))
        answer.expires_at.FromDatetime(signed.expires_at)
        return answer

    async def create_download_location(self, request: CreateDownloadLocationRequest) -> CreateDownloadLocationResponse:
        """A link to an object of the store.  Raises InvalidArgument, and PermissionDenied outside of the store."""
        if not request.native_url:
            raise missing("native_url")
        check_text("native_url", request.native_url, max_chars=MAX_REFERENCE_CHARS, max_bytes=None)
        expires_in = _expiry(request.expires_in, self._config.download.max_expires_in)
        signed = await self._storage.sign_download(request.native_url, expires_in=expires_in)
        answer = CreateDownloadLocationResponse(signed_url=signed.url)
        answer.expires_at.FromDatetime(signed.expires_at)
        return answer

    async def create_download_link(self, request: CreateDownloadLinkRequest) -> CreateDownloadLinkResponse:
        """A link to the deck of a node.  Raises InvalidArgument for an unknown node, NotFound if it has no deck."""
        try:
            if request.artifact_type != ARTIFACT_TYPE_DECK:
                raise InvalidArgument("invalid artifact type; only decks can be linked to")
            if request.WhichOneof("source") is None:
                raise missing("source")
            check_node_execution_id(request.node_execution_id)
            expires_in = _expiry(request.expires_in, self._config.download.max_expires_in)
        except InvalidArgument as error:
            raise InvalidArgument(f"error while validating request. Error: {error.message}") from error
        shown_request = proto_text(request)
        try:
            node = await self._reading.get_node_execution(request.node_execution_id)
        except NotFound as error:
            raise InvalidArgument(
                f"failed to find node execution [{proto_text(request.node_execution_id)}]. Error: {error.message}"
            ) from error
        reference = node.closure.deck_uri
        if not reference:
            raise NotFound(f"no deckUrl found for request [{shown_request}]")
        if await self._head(reference) is None:
            raise NotFound("object not found")
        signed = await self._storage.sign_download(reference, expires_in=expires_in)
        answer = CreateDownloadLinkResponse(signed_url=[signed.url])
        answer.expires_at.FromDatetime(signed.expires_at)
        answer.pre_signed_urls.CopyFrom(PreSignedURLs(signed_url=[signed.url], expires_at=answer.expires_at))
        return answer

    async def get_data(self, request: GetDataRequest) -> GetDataResponse:
        """What a `flyte://` address means.  Raises InvalidArgument, NotFound."""
        url = parse_flyte_url(request.flyte_url)
        if url.part is Part.DECK:
            link = await self.create_download_link(
                CreateDownloadLinkRequest(artifact_type=ARTIFACT_TYPE_DECK, node_execution_id=url.node)
            )
            return GetDataResponse(pre_signed_urls=link.pre_signed_urls)
        if url.attempt is None:
            node_data = await self._data.node_execution_data(url.node)
            literals = node_data.full_inputs if url.part is Part.INPUTS else node_data.full_outputs
            owner = f"node execution [{proto_text(url.node)}]"
        else:
            key = await self._task_execution(url)
            task_data = await self._data.task_execution_data(key)
            literals = task_data.full_inputs if url.part is Part.INPUTS else task_data.full_outputs
            owner = f"task execution [{proto_text(key)}]"
        if url.name is None:
            return GetDataResponse(literal_map=literals)
        if url.name not in literals.literals:
            raise InvalidArgument(f"name [{url.name}] not found in {owner}")
        return GetDataResponse(literal=literals.literals[url.name])

    async def _task_execution(self, url: FlyteUrl) -> TaskExecutionIdentifier:
        attempt = url.attempt or 0
        task = await self._tasks.find_task(url.node, attempt)
        if task is None:
            raise InvalidArgument(f"no attempt {attempt} found of node execution [{proto_text(url.node)}]")
        return TaskExecutionIdentifier(task_id=task, node_execution_id=url.node, retry_attempt=attempt)

    def _location(self, request: CreateUploadLocationRequest) -> str:
        """`<base>/<prefix>/<org>/<project>/<domain>/<root>/<filename>` without empty parts."""
        root = request.filename_root or base64.b32encode(request.content_md5).decode()
        filename = request.filename or _random_name(self._config.upload.default_file_name_length)
        fields = {
            "org": request.org, "project": request.project, "domain": request.domain,
            "filename_root": root, "filename": filename,
        }  # fmt: skip
        for field, value in fields.items():
            check_text(field, value, max_chars=None, max_bytes=MAX_LOCATION_BYTES)
            if any(element in (".", "..") for element in value.split("/")):
                raise InvalidArgument(f"{field} must not hold the path elements . and ..")
        elements = [
            element
            for part in (self._config.upload.storage_prefix, *fields.values())
            for element in part.split("/")
            if element
        ]
        if elements[0] in self._reserved or elements[0].startswith("."):
            raise InvalidArgument(
                f"uploads below [{elements[0]}] are not possible, because the platform keeps its own objects there; "
                "set server.dataProxy.upload.storagePrefix to give uploads a place of their own"
            )
        if max(len(element.encode()) for element in elements) > MAX_ELEMENT_BYTES:
            raise InvalidArgument(f"an element of the upload's path is longer than {MAX_ELEMENT_BYTES} bytes")
        if sum(len(element.encode()) + 1 for element in elements) > MAX_LOCATION_BYTES:
            raise InvalidArgument(
                f"the path of the upload is longer than {MAX_LOCATION_BYTES} bytes; use shorter names"
            )
        return self._storage.join(self._storage.base, *elements)

    async def _check_rewrite(self, location: str, md5: bytes) -> None:
        """An object whose path the request determines may be written again only with the content that it has."""
        found = await self._head(location)
        if found is None:
            return
        if not md5 or not _has_md5(found, md5):
            raise AlreadyExists(
                f"file already exists at location [{location}], specify a matching hash if you wish to rewrite"
            )

    async def _head(self, reference: str) -> Metadata | None:
        try:
            return await self._storage.head(reference)
        except (InvalidArgument, PermissionDenied):  # what an engine reported need not lie in the store
            raise
        except AerodromeError as error:
            raise Internal(f"failed to look at [{reference}]: {error.message}") from error


def _expiry(asked: Duration, most: timedelta) -> timedelta:
    """How long a signature lives: what is asked for, or the most that is allowed."""
    try:
        expires_in = asked.ToTimedelta()
    except (OverflowError, ValueError):
        raise InvalidArgument("expires_in is not a duration") from None
    if expires_in == timedelta(0):
        return most
    if expires_in < timedelta(0) or expires_in > most:
        raise InvalidArgument(f"expires_in must be between 0 and {most.total_seconds():g} s, but is {expires_in}")
    return expires_in


def _has_md5(found: Metadata, md5: bytes) -> bool:
    encoded = base64.b64encode(md5).decode()
    if found.content_md5:
        return found.content_md5 == encoded
    return found.etag.strip('"') in (md5.hex(), base64.b32encode(md5).decode(), encoded)


def _random_name(length: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(length))
