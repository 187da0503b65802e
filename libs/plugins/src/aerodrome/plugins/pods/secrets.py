"""Secrets that a task asks for: announced by annotations, and found again by whoever injects them.

Only names travel in a pod, never a value.  Source: spec/data-plane.md, section 2.10.
"""

from __future__ import annotations

from base64 import b32decode
from collections.abc import Iterable, Mapping
from typing import Final

from flyteidl.core import security_pb2
from google.protobuf import text_format

from aerodrome.plugins import names
from aerodrome.plugins.api import TaskContext, V1Pod
from aerodrome.stdlib.errors import InvalidArgument

INJECT_LABEL: Final = "inject-flyte-secrets"
_ANNOTATION: Final = "flyte.secrets/s"
_TO_STANDARD: Final = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz123456", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")

ENV_PREFIX: Final = "_FSEC_"
"""Start of the names of the environment variables that hold secrets."""
FILE_DIRECTORY: Final = "/etc/flyte/secrets"
"""Where secrets are mounted: `<directory>/<group>/<key>`, lower-case."""


def requested_secrets(context: TaskContext) -> list[security_pb2.Secret]:
    """The secrets of the task and of the execution, each once, in that order."""
    secrets: list[security_pb2.Secret] = []
    for source in (context.task.security_context.secrets, context.security_context.secrets):
        secrets.extend(secret for secret in source if secret not in secrets)
    return secrets


def secret_annotations(secrets: Iterable[security_pb2.Secret]) -> dict[str, str]:
    """Annotations that tell the injecting webhook what to inject."""
    return {
        f"{_ANNOTATION}{index}": names.base32(text_format.MessageToString(secret).encode())
        for index, secret in enumerate(secrets)
    }


def secrets_of(pod: V1Pod) -> list[security_pb2.Secret]:
    """The secrets that a pod's annotations ask for, in their order.  Raises InvalidArgument if one cannot be read."""
    annotations: Mapping[str, str] = pod.get("metadata", {}).get("annotations") or {}
    return [_decoded(key, annotations[key]) for key in sorted(annotations, key=_number) if key.startswith(_ANNOTATION)]


def asks_for_secrets(pod: V1Pod) -> bool:
    """Whether a pod's annotations ask for any secret."""
    return any(key.startswith(_ANNOTATION) for key in pod.get("metadata", {}).get("annotations") or ())


def variable_name(secret: security_pb2.Secret) -> str:
    """The environment variable in which flytekit looks for `secret`."""
    return f"{ENV_PREFIX}{secret.group}_{secret.key}".upper()


def file_path(secret: security_pb2.Secret) -> str:
    """The file in which flytekit looks for `secret`."""
    return f"{FILE_DIRECTORY}/{secret.group}/{secret.key}".lower()


def _number(key: str) -> tuple[int, str]:
    digits = key.removeprefix(_ANNOTATION)
    return (int(digits) if digits.isdecimal() else 0, key)


def _decoded(key: str, value: str) -> security_pb2.Secret:
    padding = "=" * (-len(value) % 8)
    try:
        text = b32decode(value.encode("ascii").translate(_TO_STANDARD) + padding.encode()).decode()
        return text_format.Parse(text, security_pb2.Secret())
    except (ValueError, text_format.ParseError) as error:
        raise InvalidArgument(f"the annotation {key} of the pod is no secret request: {error}") from error
