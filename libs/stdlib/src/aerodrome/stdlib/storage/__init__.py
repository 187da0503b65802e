"""Storage of objects: one port, adapters for a local directory, S3 and memory, a cache, and signed URLs."""

from aerodrome.stdlib.storage.opening import open_storage
from aerodrome.stdlib.storage.port import (
    MD5_METADATA_HEADER,
    Metadata,
    Opened,
    ServedStorage,
    SignedUrl,
    Storage,
    Upload,
    join_reference,
)
from aerodrome.stdlib.storage.signing import Claims, LocalSigner

__all__ = [
    "MD5_METADATA_HEADER",
    "Claims",
    "LocalSigner",
    "Metadata",
    "Opened",
    "ServedStorage",
    "SignedUrl",
    "Storage",
    "Upload",
    "join_reference",
    "open_storage",
]
