"""Secrets on the local runtime: found in a directory or in the platform's environment, handed to processes only.

A pod names the secrets that its task wants (`aerodrome.plugins.pods.secrets`); their values are read right before its
process starts, travel to it over the zygote's socket, and are nowhere else: files for the task lie in memory
(`/dev/shm`) where the machine has that, in a folder of the attempt, and go when it ends.
Source: spec/data-plane.md, section 2.10; the layout is what flytekit's `SecretsManager` looks for.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flyteidl.core import security_pb2

from aerodrome.plugins.pods.secrets import ENV_PREFIX
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

MAX_BYTES = 1 << 20
"""Most that one secret may hold, as in Kubernetes."""
NOT_FOUND = "SecretNotFound"
UNSAFE = "SecretUnsafe"
_MASKED_FROM = 6
"""Characters from which a value is masked in texts: shorter ones would mask ordinary words."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SHARED_MEMORY = Path("/dev/shm")


class SecretRefused(Exception):
    """An attempt cannot have its secrets: it fails at once with this reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a process gets; its values are never logged or written down."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Content in base 64, by path below the attempt's secrets folder."""


@dataclass(frozen=True, slots=True)
class _Value:
    name: str
    content: bytes = field(repr=False)


class SecretStore:
    """Where the platform's secrets are.

    `directory` holds one file for each, `<group>/<key>` (or `<group>/<version>/<key>`, or `<key>` without a group),
    which nobody but its owner may read; None if there is none.  `environ` is the platform's environment, in which
    `<prefix><GROUP>_<KEY>` wins over the file.
    """

    def __init__(
        self, directory: Path | None = None, environ: Mapping[str, str] | None = None, prefix: str = "FLYTE_SECRET_"
    ) -> None:
        self._directory = None if directory is None else Path(os.path.abspath(directory.expanduser()))
        self._environ = environ or {}
        self._prefix = prefix
        self._delivered: dict[str, str] = {}
        """Values that were handed out, and their names."""

    def check(self) -> None:
        """Blocks.  Raises FailedPrecondition if others may read what is in the directory."""
        if self._directory is None:
            return
        if not self._directory.is_dir():
            log.warning("the secrets directory is not there yet", directory=str(self._directory))
            return
        problems = [f"{path} ({oct(mode)[2:]})" for path, mode in _readable_by_others(self._directory)]
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise FailedPrecondition(
                f"secrets in {self._directory} can be read by others: {', '.join(problems[:5])}{more}. "
                f"Take that away: chmod -R go= {self._directory}"
            )

    def deliver(self, wanted: Sequence[security_pb2.Secret], folder: str) -> Delivery:
        """What a process gets whose secrets lie in `folder`.  Blocks.  Raises SecretRefused naming what is missing."""
        if not wanted:
            return Delivery()
        environment = {
            "FLYTE_SECRETS_ENV_PREFIX": ENV_PREFIX,
            "FLYTE_SECRETS_DEFAULT_DIR": folder,
            "FLYTE_SECRETS_FILE_PREFIX": "",
        }
        files: dict[str, str] = {}
        for secret in wanted:
            value = self._find(secret)
            if secret.mount_requirement == security_pb2.Secret.ENV_VAR:
                given = _text(value)
                for name in _variables(secret):
                    environment[name] = given
            else:
                for place in _places(secret):
                    files[place] = base64.b64encode(value.content).decode("ascii")
                given = os.path.join(folder, _places(secret)[0])
            if secret.env_var:
                environment[secret.env_var] = given
        return Delivery(environment, files)

    def mask(self, text: str) -> str:
        """`text` with every value that was handed out replaced by its name."""
        for value, name in self._delivered.items():
            if value in text:
                text = text.replace(value, f"[secret {name}]")
        return text

    def _find(self, secret: security_pb2.Secret) -> _Value:
        parts = _parts(secret)
        name = "/".join(parts)
        if not parts:
            raise SecretRefused(NOT_FOUND, "the task asks for a secret without a group and a key: name at least one")
        if any(part in (".", "..") or "/" in part or "\0" in part for part in parts):
            raise SecretRefused(NOT_FOUND, f"{name!r} is no name of a secret: a group or key is one part of a path")
        variable = self._prefix + "_".join(parts).upper()
        content = None
        if variable in self._environ:
            content = os.fsencode(self._environ[variable])
        elif self._directory is not None:
            content = self._read(name, parts)
        if content is None:
            place = (
                f"{self._directory / name} (chmod 600)"
                if self._directory is not None
                else f"DIR/{name} (chmod 600), and start the platform with --secrets-dir DIR"
            )
            raise SecretRefused(
                NOT_FOUND,
                f"the task asks for the secret {_described(secret)}, which is not there: put it into {place}, or start "
                f"the platform with the environment variable {variable}",
            )
        value = _Value(name, content)
        self._remember(value)
        return value

    def _read(self, name: str, parts: Sequence[str]) -> bytes | None:
        assert self._directory is not None
        for path in dict.fromkeys((self._directory.joinpath(*parts), self._directory.joinpath(*map(str.lower, parts)))):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise SecretRefused(UNSAFE, f"the secret {name} at {path} cannot be read: {error.strerror}") from error
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    continue
                if found.st_mode & _OTHERS:
                    mode = oct(stat.S_IMODE(found.st_mode))[2:]
                    raise SecretRefused(
                        UNSAFE,
                        f"the secret {name} at {path} can be read by others (mode {mode}), so it is not used: "
                        f"chmod 600 {path}",
                    )
                if found.st_size > MAX_BYTES:
                    raise SecretRefused(
                        UNSAFE, f"the secret {name} at {path} has {found.st_size} bytes; at most {MAX_BYTES} are taken"
                    )
                return file.read(MAX_BYTES)
        return None

    def _remember(self, value: _Value) -> None:
        text = value.content.decode(errors="surrogateescape").strip()
        if len(text) >= _MASKED_FROM:
            self._delivered[text] = value.name


class SecretFolders:
    """Folders for the secrets of attempts: in memory where the machine allows it, else in the attempt's own."""

    def __init__(self, root: Path) -> None:
        """`root` is the runtime's directory, which tells its folders from those of others."""
        name = f"aerodrome-{os.getuid()}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}"
        self._shared: Path | None = _SHARED_MEMORY / name

    def open(self) -> None:
        """Find out where they go, and remove what an earlier run left that did not end properly.  Blocks."""
        if self._shared is None:
            return
        try:
            self._shared.mkdir(mode=0o700, exist_ok=True)
            found = self._shared.lstat()
        except OSError:
            self._shared = None
            return
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & _OTHERS:
            self._shared = None  # somebody else made it, to see what is put there

    def folder(self, namespace: str, name: str, work: Path) -> str:
        """Where the files of an attempt go, whose own directory is `work`."""
        return str(work / "secrets" if self._shared is None else self._shared / namespace / name)

    def remove(self, namespace: str, name: str) -> None:
        """Remove those of an attempt that is over.  Blocks."""
        if self._shared is not None:
            shutil.rmtree(self._shared / namespace / name, ignore_errors=True)

    def remove_others(self, live: Iterable[tuple[str, str]]) -> None:
        """Remove those of all attempts but the `live` ones.  Blocks."""
        if self._shared is None:
            return
        kept = set(live)
        for folder in self._shared.glob("*/*"):
            if (folder.parent.name, folder.name) not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove all of it, if nothing runs any more.  Blocks."""
        if self._shared is not None:
            shutil.rmtree(self._shared, ignore_errors=True)


def _readable_by_others(directory: Path) -> Iterator[tuple[Path, int]]:
    """The regular files below that others than their owner may use, with their permissions."""
    for path in sorted(directory.rglob("*")):
        try:
            found = path.stat()
        except FileNotFoundError:  # it is being replaced, or a link to nothing
            continue
        if stat.S_ISREG(found.st_mode) and found.st_mode & _OTHERS:
            yield path, stat.S_IMODE(found.st_mode)


def _parts(secret: security_pb2.Secret) -> list[str]:
    return [part for part in (secret.group, secret.group_version, secret.key) if part]


def _described(secret: security_pb2.Secret) -> str:
    version = f", version {secret.group_version}" if secret.group_version else ""
    return f"{secret.key or '(no key)'} of group {secret.group or '(no group)'}{version}"


def _variables(secret: security_pb2.Secret) -> list[str]:
    """The environment variables in which a task looks for it: with its version, and without as the reference has it."""
    names = ["_".join(_parts(secret)), "_".join(part for part in (secret.group, secret.key) if part)]
    return [f"{ENV_PREFIX}{name}".upper() for name in dict.fromkeys(names)]


def _places(secret: security_pb2.Secret) -> list[str]:
    """The files in which a task looks for it: with its version, and without as the reference has it."""
    with_version = "/".join(_parts(secret))
    without = "/".join(part for part in (secret.group, secret.key) if part)
    return [place.lower() for place in dict.fromkeys((with_version, without))]


def _text(value: _Value) -> str:
    if b"\0" in value.content:
        raise SecretRefused(
            UNSAFE,
            f"the secret {value.name} holds a zero byte, so it cannot be an environment variable: ask for it as a file "
            "(mount_requirement=Secret.MountType.FILE)",
        )
    return os.fsdecode(value.content.removesuffix(b"\n"))
