"""From the `storage` section to an open store; adapters are imported only when they are used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aerodrome.stdlib import faults
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.config import StorageConfig
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.storage.port import ServedStorage, Storage
from aerodrome.stdlib.storage.signing import LocalSigner


def open_storage(
    config: StorageConfig, *, clock: Clock, signer: LocalSigner | None = None
) -> AbstractAsyncContextManager[Storage]:
    """The store that `config` describes; `signer` is for those that we serve ourselves (`local`, `mem`).

    With `cache.max_size_mbs` objects that were read are kept in memory.  Raises InvalidArgument for settings that
    describe no store; entering it, FailedPrecondition or what the store's service says.
    """
    return _opened(config, clock, signer)


@asynccontextmanager
async def _opened(config: StorageConfig, clock: Clock, signer: LocalSigner | None) -> AsyncIterator[Storage]:
    async with _adapter(config, clock, signer) as storage:
        if config.cache.max_size_mbs:
            from aerodrome.stdlib.storage.cache import CachingStorage, ServedCachingStorage

            size_mbs, limit_bytes = config.cache.max_size_mbs, _limit_bytes(config)
            if isinstance(storage, ServedStorage):
                yield ServedCachingStorage(storage, size_mbs, limit_bytes=limit_bytes)
            else:
                yield CachingStorage(storage, size_mbs, limit_bytes=limit_bytes)
        else:
            yield storage


def _adapter(config: StorageConfig, clock: Clock, signer: LocalSigner | None) -> AbstractAsyncContextManager[Storage]:
    containers = config.containers if config.enable_multicontainer else ()
    limit_bytes = _limit_bytes(config)
    if not config.container:
        raise InvalidArgument("storage.container is not set: name the bucket, or the directory for storage.type local")
    match config.type:
        case "local":
            from aerodrome.stdlib.storage.local import LocalStorage

            local: type[LocalStorage] = LocalStorage
            if faults.enabled:
                from aerodrome.stdlib.storage.faulty import FaultyLocalStorage

                local = FaultyLocalStorage
            return local(
                _local_path(config),
                containers=containers,
                limit_bytes=limit_bytes,
                signer=signer,
                sync_writes=config.sync_writes,
            )
        case "mem":
            from aerodrome.stdlib.storage.memory import MemStorage

            return MemStorage(
                config.container, clock=clock, containers=containers, limit_bytes=limit_bytes, signer=signer
            )
        case "stow" if config.stow.kind == "local":
            from aerodrome.stdlib.storage.local import LocalStorage

            return LocalStorage(_local_path(config), containers=containers, limit_bytes=limit_bytes, signer=signer)
        case "stow" if config.stow.kind != "s3":
            raise InvalidArgument(f"storage.stow.kind {config.stow.kind!r} is not supported; use s3 or local")
    from aerodrome.stdlib.storage.s3 import S3Settings, S3Storage

    return S3Storage(S3Settings.of(config), clock=clock, containers=containers, limit_bytes=limit_bytes)


def _local_path(config: StorageConfig) -> str:
    path = config.stow.config.get("path")
    if path is not None and not config.container.startswith("/"):
        return f"{path.get_secret_value().rstrip('/')}/{config.container}"
    return config.container


def _limit_bytes(config: StorageConfig) -> int:
    return config.limits.max_download_mbs * 2**20
