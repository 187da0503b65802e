"""Secrets reach processes, and nothing else."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from flyteidl.core import security_pb2
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins.pods.secrets import secret_annotations
from aerodrome.propeller.runtimes import LocalRuntime
from aerodrome.propeller.runtimes.secrets import SecretFolders, SecretRefused, SecretStore
from aerodrome.stdlib.errors import FailedPrecondition

from .harness import Open, make_pod, run_pod, terminated

VALUE = "hunter2-very-secret"
Secret = security_pb2.Secret


def secrets_dir(folder: Path, **files: str) -> Path:
    """A directory of secrets; `group__key` is the file `group/key`."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, content in files.items():
        path = folder.joinpath(*name.split("__"))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)
    return folder


def decoded(files: dict[str, str]) -> dict[str, bytes]:
    return {name: base64.b64decode(content) for name, content in files.items()}


def test_a_secret_as_a_file_lies_where_flytekit_looks(tmp_path: Path) -> None:
    store = SecretStore(secrets_dir(tmp_path, Db__Password=VALUE))
    wanted = Secret(group="Db", key="Password", mount_requirement=Secret.FILE, env_var="DB_FILE")
    delivery = store.deliver([wanted], "/secrets")
    assert decoded(dict(delivery.files)) == {"db/password": VALUE.encode()}
    assert delivery.environment == {
        "FLYTE_SECRETS_ENV_PREFIX": "_FSEC_",
        "FLYTE_SECRETS_DEFAULT_DIR": "/secrets",
        "FLYTE_SECRETS_FILE_PREFIX": "",
        "DB_FILE": "/secrets/db/password",
    }


def test_a_secret_as_a_variable_has_the_name_that_flytekit_reads(tmp_path: Path) -> None:
    store = SecretStore(secrets_dir(tmp_path, db__password=VALUE + "\n", db__v2__password="newer"))
    plain = Secret(group="db", key="password", mount_requirement=Secret.ENV_VAR, env_var="PASSWORD")
    versioned = Secret(group="db", group_version="v2", key="password", mount_requirement=Secret.ENV_VAR)
    delivery = store.deliver([plain], "/secrets")
    assert not delivery.files
    assert delivery.environment["_FSEC_DB_PASSWORD"] == VALUE
    assert delivery.environment["PASSWORD"] == VALUE
    assert store.deliver([versioned], "/secrets").environment["_FSEC_DB_V2_PASSWORD"] == "newer"


def test_any_way_is_a_file_as_on_kubernetes(tmp_path: Path) -> None:
    delivery = SecretStore(secrets_dir(tmp_path, g__k="v")).deliver([Secret(group="g", key="k")], "/secrets")
    assert list(delivery.files) == ["g/k"]


def test_the_environment_of_the_platform_wins_over_the_directory(tmp_path: Path) -> None:
    store = SecretStore(secrets_dir(tmp_path, g__k="file"), {"FLYTE_SECRET_G_K": "variable"})
    assert decoded(dict(store.deliver([Secret(group="g", key="k")], "/s").files)) == {"g/k": b"variable"}


@pytest.mark.parametrize("directory", [True, False])
def test_a_missing_secret_is_named_with_the_place_where_it_belongs(tmp_path: Path, directory: bool) -> None:
    store = SecretStore(tmp_path if directory else None)
    with pytest.raises(SecretRefused) as refused:
        store.deliver([Secret(group="db", key="password")], "/secrets")
    assert refused.value.reason == "SecretNotFound"
    assert "password of group db" in refused.value.message
    assert "FLYTE_SECRET_DB_PASSWORD" in refused.value.message
    assert (str(tmp_path / "db/password") if directory else "--secrets-dir DIR") in refused.value.message


def test_what_others_may_read_is_refused_at_the_start_and_at_each_use(tmp_path: Path) -> None:
    folder = secrets_dir(tmp_path / "s", g__k=VALUE)
    store = SecretStore(folder)
    store.check()
    (folder / "g/k").chmod(0o644)
    with pytest.raises(FailedPrecondition, match="can be read by others") as refused:
        store.check()
    assert "chmod -R go=" in refused.value.message
    assert VALUE not in refused.value.message
    with pytest.raises(SecretRefused, match="chmod 600") as unused:
        store.deliver([Secret(group="g", key="k")], "/s")
    assert unused.value.reason == "SecretUnsafe"
    SecretStore(tmp_path / "nowhere").check()  # it may come later


@given(st.lists(st.text(st.sampled_from("./\0ab"), max_size=5), min_size=3, max_size=3))
def test_no_name_leaves_the_directory(parts: list[str]) -> None:
    group, version, key = parts
    store = SecretStore(Path("/nonexistent/secrets"))
    with pytest.raises(SecretRefused):
        store.deliver([Secret(group=group, group_version=version, key=key)], "/secrets")


def test_values_are_masked_in_texts(tmp_path: Path) -> None:
    store = SecretStore(secrets_dir(tmp_path, g__k=VALUE, g__short="on"))
    store.deliver([Secret(group="g", key="k"), Secret(group="g", key="short")], "/s")
    assert store.mask(f"refused: {VALUE} is wrong; on") == "refused: [secret g/k] is wrong; on"


def test_a_value_never_shows_in_what_describes_a_delivery(tmp_path: Path) -> None:
    store = SecretStore(secrets_dir(tmp_path, g__k=VALUE), {"FLYTE_SECRET_A_B": VALUE})
    assert VALUE not in repr(store.deliver([Secret(group="g", key="k"), Secret(group="a", key="b")], "/s"))


def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path: Path) -> None:
    folders = SecretFolders(tmp_path)
    folders.open()
    shared = Path(folders.folder("ns", "name", tmp_path / "work")).parents[1]
    folders.close()
    assert not shared.exists()
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    try:
        suspicious = SecretFolders(tmp_path)
        suspicious.open()
        assert suspicious.folder("ns", "name", tmp_path / "work") == str(tmp_path / "work" / "secrets")
    finally:
        shared.rmdir()


def pod_with(name: str, command: list[str], *secrets: security_pb2.Secret, **more: Any) -> dict[str, Any]:
    return make_pod(name, command, annotations=secret_annotations(secrets), **more)


def holders(root: Path, value: str) -> list[Path]:
    """The files below `root` that contain `value`."""
    files = [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    return [path for path in files if path.is_file() and value.encode() in path.read_bytes()]


SAY_HASHES = (
    'printf %s "$_FSEC_ENV_GROUP_TOKEN" | sha256sum; cat "$FLYTE_SECRETS_DEFAULT_DIR/db/password" | sha256sum; '
    'stat -c "%a" "$FLYTE_SECRETS_DEFAULT_DIR/db/password"; echo "$FLYTE_SECRETS_DEFAULT_DIR"'
)


async def test_a_process_has_its_secrets_and_nothing_on_disk_has_them(opened: Open, data: Path, tmp_path: Path) -> None:
    store = SecretStore(secrets_dir(tmp_path / "s", db__password=VALUE), {"FLYTE_SECRET_ENV_GROUP_TOKEN": VALUE})
    wanted = (
        Secret(group="env_group", key="token", mount_requirement=Secret.ENV_VAR),
        Secret(group="db", key="password", mount_requirement=Secret.FILE),
    )
    async with opened(secrets=store) as runtime:
        pod = await run_pod(runtime, pod_with("has-secrets", ["sh", "-c", SAY_HASHES], *wanted))
        assert pod["status"]["phase"] == "Succeeded"
        first, second, mode, folder = (await runtime.tail("tests", "has-secrets")).splitlines()
        assert first == second
        assert not first.startswith("e3b0c442"), "it got nothing"
        assert mode == "400"
        assert VALUE not in str(pod)
        assert not holders(data, VALUE)
        await runtime.delete("tests", "has-secrets")
        assert not os.path.exists(folder)
    assert not holders(data, VALUE)
    assert not Path(folder).parents[1].exists()


async def test_a_missing_secret_fails_the_pod_at_once(runtime: LocalRuntime) -> None:
    pod = await run_pod(runtime, pod_with("no-secret", ["true"], Secret(group="db", key="password")))
    assert pod["status"]["phase"] == "Failed"
    assert pod["status"]["reason"] == "SecretNotFound"
    assert "password of group db" in pod["status"]["message"]
    assert terminated(pod)["exitCode"] == 128
