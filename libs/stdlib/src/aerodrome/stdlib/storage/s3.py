"""Storage on S3 and what speaks its protocol (MinIO and others).

botocore is slow to import, so this module is imported only where it is used, and the client library when a store is
opened.  URLs for clients may be signed for another address than the one the services use
(`storage.signedUrl.stowConfigOverride`): inside a cluster the two differ.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.config import StorageConfig
from aerodrome.stdlib.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from aerodrome.stdlib.storage.port import (
    MD5_METADATA_HEADER,
    Metadata,
    SignedUrl,
    base64_md5,
    check_size,
    join_reference,
)

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

SCHEME = "s3://"

MAX_SIGNED = timedelta(days=7)
"""S3 signs for no longer."""

LARGEST_COPY_BYTES = 5 * 2**30
"""What S3 copies in one request; larger objects are copied in parts."""

COPY_PART_BYTES = 512 * 2**20

DELETE_BATCH = 1000
"""How many objects S3 deletes in one request."""

CONNECT_SECONDS = 5
READ_SECONDS = 30
MAX_ATTEMPTS = 4

MD5_METADATA = "flytecontentmd5"
"""The user metadata that keeps an upload's MD5, as S3 returns its name."""


Keys: TypeAlias = list[str]
Parts: TypeAlias = list[Any]


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach a service; empty texts leave a choice to botocore (AWS, and the credentials of the environment)."""

    bucket: str
    endpoint: str
    region: str
    access_key: str
    secret_key: str
    signing_endpoint: str
    """The address in URLs for clients; empty for `endpoint`."""
    signing_region: str

    @staticmethod
    def of(config: StorageConfig) -> S3Settings:
        """The settings of a `storage` section of type s3, minio or stow.  Raises InvalidArgument."""
        stow = {key: value.get_secret_value() for key, value in config.stow.config.items()}
        connection = config.connection
        if config.type == "stow":
            with_keys = stow.get("auth_type", "accesskey" if stow.get("access_key_id") else "iam") == "accesskey"
            access_key, secret_key = stow.get("access_key_id", ""), stow.get("secret_key", "")
            endpoint, region = stow.get("endpoint", ""), stow.get("region", connection.region)
            plain = stow.get("disable_ssl", "false").lower() in ("true", "1", "yes")
        else:
            with_keys = connection.auth_type == "accesskey"
            access_key, secret_key = connection.access_key, connection.secret_key.get_secret_value()
            endpoint, region, plain = connection.endpoint, connection.region, connection.disable_ssl
        if with_keys and not (access_key and secret_key):
            raise InvalidArgument("storage.connection.auth-type is accesskey, but access-key or secret-key is missing")
        override = {key: value.get_secret_value() for key, value in config.signed_url.stow_config_override.items()}
        return S3Settings(
            bucket=config.container,
            endpoint=_address(endpoint, plain=plain),
            region=region,
            access_key=access_key if with_keys else "",
            secret_key=secret_key if with_keys else "",
            signing_endpoint=_address(override.get("endpoint", ""), plain=plain),
            signing_region=override.get("region", region),
        )


class S3Storage:
    """Objects in a bucket, and in the buckets `containers`; an async context manager.

    The bucket is created if it is missing and the credentials permit that.
    """

    def __init__(
        self, settings: S3Settings, *, clock: Clock, containers: Sequence[str] = (), limit_bytes: int = 2 * 2**20
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._buckets = frozenset((settings.bucket, *(name.removeprefix(SCHEME).strip("/") for name in containers)))
        self._exits = AsyncExitStack()
        self._open_client: S3Client | None = None
        self._signing_client: S3Client | None = None

    async def __aenter__(self) -> Self:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session

        settings = self._settings
        session = get_session()

        async def client(endpoint: str, region: str) -> S3Client:
            made = session.create_client(
                "s3",
                region_name=region,
                endpoint_url=endpoint or None,
                aws_access_key_id=settings.access_key or None,
                aws_secret_access_key=settings.secret_key or None,
                config=AioConfig(
                    signature_version="s3v4",
                    s3={"addressing_style": "path" if endpoint else "auto"},
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                    max_pool_connections=64,
                    retries={"total_max_attempts": MAX_ATTEMPTS, "mode": "standard"},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
            return await self._exits.enter_async_context(made)

        try:
            self._open_client = await client(settings.endpoint, settings.region)
            signs_elsewhere = (settings.signing_endpoint or settings.endpoint, settings.signing_region)
            self._signing_client = (
                self._open_client
                if signs_elsewhere == (settings.endpoint, settings.region)
                else await client(*signs_elsewhere)
            )
            await self._ensure_bucket()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open_client = self._signing_client = None
        await self._exits.aclose()

    @property
    def base(self) -> str:
        return SCHEME + self._settings.bucket

    def join(self, *parts: str) -> str:
        return join_reference(self.base, parts)

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        limit = self._limit_bytes if limit_bytes is None else limit_bytes
        bucket, key = self._object(reference)
        with _translated(reference):
            response = await self._client.get_object(Bucket=bucket, Key=key)
            async with response["Body"] as body:
                check_size(reference, response["ContentLength"], limit)
                data: bytes = await body.read()
        check_size(reference, len(data), limit)
        return data

    async def write(self, reference: str, data: bytes, *, content_type: str | None = None) -> None:
        bucket, key = self._object(reference)
        extra: Any = {"ContentType": content_type} if content_type else {}
        with _translated(reference):
            await self._client.put_object(Bucket=bucket, Key=key, Body=data, **extra)

    async def head(self, reference: str) -> Metadata | None:
        bucket, key = self._key(reference)
        if not key:
            return None
        try:
            with _translated(reference):
                found = await self._client.head_object(Bucket=bucket, Key=key)
        except NotFound:
            return None
        stated = {name.lower(): value for name, value in found["Metadata"].items()}
        return Metadata(
            size_bytes=found["ContentLength"],
            etag=found["ETag"].strip('"'),
            content_md5=stated.get(MD5_METADATA),
            content_type=found.get("ContentType"),
            modified_at=found["LastModified"],
        )

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, Metadata]]:
        bucket, key = self._key(prefix)
        itself = await self.head(prefix) if key and not key.endswith("/") else None
        if itself is not None:
            yield f"{SCHEME}{bucket}/{key}", itself
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=_below(key))
        iterator = aiter(pages)
        while True:
            with _translated(prefix):
                page = await anext(iterator, None)
            if page is None:
                return
            for found in page.get("Contents", ()):
                metadata = Metadata(found["Size"], found["ETag"].strip('"'), None, None, found["LastModified"])
                yield f"{SCHEME}{bucket}/{found['Key']}", metadata

    async def delete(self, reference: str) -> None:
        bucket, key = self._object(reference)
        with _translated(reference):
            await self._client.delete_object(Bucket=bucket, Key=key)

    async def delete_prefix(self, prefix: str) -> int:
        bucket, _ = self._key(prefix)
        count = 0
        batch: Keys = []
        async for reference, _ in self.list(prefix):
            batch.append(reference.removeprefix(f"{SCHEME}{bucket}/"))
            if len(batch) == DELETE_BATCH:
                count += await self._delete_batch(prefix, bucket, batch)
                batch = []
        return count + (await self._delete_batch(prefix, bucket, batch) if batch else 0)

    async def copy(self, source: str, destination: str) -> None:
        from_bucket, from_key = self._object(source)
        bucket, key = self._object(destination)
        found = await self.head(source)
        if found is None:
            raise NotFound(f"[{source}] does not exist")
        with _translated(source):
            if found.size_bytes <= LARGEST_COPY_BYTES:
                await self._client.copy_object(
                    Bucket=bucket, Key=key, CopySource={"Bucket": from_bucket, "Key": from_key}
                )
            else:
                await self._copy_in_parts((from_bucket, from_key), (bucket, key), found)

    async def freeze(self, prefix: str) -> None:
        self._key(prefix)

    async def sign_upload(
        self,
        reference: str,
        *,
        expires_in: timedelta,
        content_md5: bytes | None = None,
        add_md5_metadata: bool = False,
        content_length: int | None = None,
    ) -> SignedUrl:
        bucket, key = self._object(reference)
        params: dict[str, Any] = {"Bucket": bucket, "Key": key}
        headers: dict[str, str] = {}
        if content_md5 is not None:
            if len(content_md5) != 16:
                raise InvalidArgument(f"an MD5 has 16 bytes, not {len(content_md5)}")
            params["ContentMD5"] = headers["Content-MD5"] = base64_md5(content_md5)
            if add_md5_metadata:
                headers[MD5_METADATA_HEADER] = params["ContentMD5"]
                params["Metadata"] = {MD5_METADATA_HEADER.removeprefix("x-amz-meta-"): params["ContentMD5"]}
        if content_length is not None:
            params["ContentLength"] = content_length  # clients state it by themselves, so it is not among the headers
        return await self._signed("put_object", reference, params, headers, expires_in)

    async def sign_download(self, reference: str, *, expires_in: timedelta) -> SignedUrl:
        bucket, key = self._object(reference)
        return await self._signed("get_object", reference, {"Bucket": bucket, "Key": key}, {}, expires_in)

    @property
    def _client(self) -> S3Client:
        if self._open_client is None:
            raise FailedPrecondition("the store is not open")
        return self._open_client

    def _key(self, reference: str) -> tuple[str, str]:
        """Bucket and key; the key is empty for the bucket itself.  Raises PermissionDenied outside of the store."""
        bucket, _, key = reference.removeprefix(SCHEME).partition("/")
        if not reference.startswith(SCHEME) or bucket not in self._buckets:
            raise PermissionDenied(
                f"[{reference[:1024]}] lies outside of the store; "
                "add its bucket to storage.containers and set storage.enable-multicontainer"
            )
        if "\0" in key or any(part in (".", "..") for part in key.split("/")):
            raise PermissionDenied(f"[{reference[:1024]!r}] holds '.', '..' or a NUL character")
        try:
            size = len(key.encode())
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"[{reference[:1024]!r}] holds characters that no key can hold") from error
        if size > 1024:
            raise InvalidArgument(f"[{reference[:1024]}] is longer than the 1024 bytes that S3 allows for a key")
        return bucket, key

    def _object(self, reference: str) -> tuple[str, str]:
        bucket, key = self._key(reference)
        if not key:
            raise NotFound(f"[{reference}] is a bucket, not an object")
        return bucket, key

    async def _ensure_bucket(self) -> None:
        bucket = self._settings.bucket
        try:
            with _translated(self.base):
                await self._client.head_bucket(Bucket=bucket)
        except NotFound:
            region = self._settings.region
            place: Any = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            with _translated(self.base):
                await self._client.create_bucket(Bucket=bucket, **place)
        except PermissionDenied:
            return  # the credentials may reach objects without seeing the bucket; what they cannot reach will say so

    async def _delete_batch(self, prefix: str, bucket: str, keys: Keys) -> int:
        with _translated(prefix):
            answer = await self._client.delete_objects(
                Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        failed = answer.get("Errors", [])
        if failed:
            first = failed[0]
            raise Unavailable(
                f"{len(failed)} of {len(keys)} objects of [{prefix}] were not deleted; "
                f"[{first.get('Key')}]: {first.get('Code')} {first.get('Message')}"
            )
        return len(keys)

    async def _copy_in_parts(self, source: tuple[str, str], target: tuple[str, str], found: Metadata) -> None:
        origin: Any = {"Bucket": source[0], "Key": source[1]}
        stated: Any = {"Metadata": {MD5_METADATA: found.content_md5}} if found.content_md5 else {}
        if found.content_type:
            stated["ContentType"] = found.content_type
        started = await self._client.create_multipart_upload(Bucket=target[0], Key=target[1], **stated)
        upload: Any = {"Bucket": target[0], "Key": target[1], "UploadId": started["UploadId"]}
        try:
            parts: Parts = []
            for number, first in enumerate(range(0, found.size_bytes, COPY_PART_BYTES), start=1):
                last = min(first + COPY_PART_BYTES, found.size_bytes) - 1
                part = await self._client.upload_part_copy(
                    **upload,
                    CopySource=origin,
                    CopySourceRange=f"bytes={first}-{last}",
                    CopySourceIfMatch=found.etag,
                    PartNumber=number,
                )
                parts.append({"PartNumber": number, "ETag": part["CopyPartResult"]["ETag"]})
            await self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseException:
            await self._client.abort_multipart_upload(**upload)
            raise

    async def _signed(
        self,
        operation: str,
        reference: str,
        params: Mapping[str, Any],
        headers: Mapping[str, str],
        expires_in: timedelta,
    ) -> SignedUrl:
        if not timedelta(0) < expires_in <= MAX_SIGNED:
            raise InvalidArgument(f"a signed URL can live for up to {MAX_SIGNED.days} days, not for {expires_in}")
        if self._signing_client is None:
            raise FailedPrecondition("the store is not open")
        expires_at = self._clock.now() + expires_in
        with _translated(reference):
            url = await self._signing_client.generate_presigned_url(
                operation, Params=dict(params), ExpiresIn=max(1, int(expires_in.total_seconds()))
            )
        return SignedUrl(url, headers, expires_at)


@contextmanager
def _translated(reference: str) -> Iterator[None]:
    """Turns what botocore and the service say about `reference` into the errors that callers know."""
    from aiohttp import ClientError as BrokenAnswer
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
    from botocore.exceptions import ConnectionError as NoConnection

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = f"[{reference[:1024]}]: the storage service answered {code or status}"
        if code in _MISSING:
            raise NotFound(f"[{reference[:1024]}] does not exist") from error
        if code in _REFUSED or status in (401, 403):
            raise PermissionDenied(f"{said}; check the storage credentials and their permissions") from error
        if code in _BUSY or status >= 500 or status == 429:
            raise Unavailable(said) from error
        raise Internal(f"{said}: {error.response.get('Error', {}).get('Message', '')}") from error
    except NoCredentialsError as error:
        raise PermissionDenied(f"[{reference[:1024]}]: no credentials for the storage service were found") from error
    except (HTTPClientError, NoConnection, BrokenAnswer, TimeoutError, OSError) as error:
        raise Unavailable(f"[{reference[:1024]}]: the storage service cannot be reached: {error}") from error
    except BotoCoreError as error:
        raise Internal(f"[{reference[:1024]}]: {error}") from error


def _address(endpoint: str, *, plain: bool) -> str:
    if not endpoint or "://" in endpoint:
        return endpoint
    return f"{'http' if plain else 'https'}://{endpoint}"


def _below(key: str) -> str:
    return key if not key or key.endswith("/") else key + "/"


_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "NotFound", "404"})
_REFUSED = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403"})
_BUSY = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "503", "500"})
