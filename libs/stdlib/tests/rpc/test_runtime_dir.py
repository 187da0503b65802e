import os
import stat
from pathlib import Path

import pytest

from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.rpc.runtime_dir import SOCKET_PATH_LIMIT_BYTES, private_directory, runtime_dir


def test_one_data_directory_has_one_private_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    data_dir = tmp_path / ("long" * 40)
    path = runtime_dir(data_dir)
    try:
        assert path == runtime_dir(data_dir / "..." / "..")
        assert path != runtime_dir(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert len(os.fsencode(path / "-pg" / ".s.PGSQL.5432.lock")) <= SOCKET_PATH_LIMIT_BYTES
    finally:
        path.rmdir()
        runtime_dir(tmp_path).rmdir()


@pytest.mark.parametrize("name", ["short", "long" * 20])
def test_the_users_own_runtime_directory_is_preferred_if_its_path_is_short(
    ordinary_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    own = ordinary_folder / name
    own.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
    found = runtime_dir(ordinary_folder)
    assert (found.parent == own) == (name == "short")
    found.rmdir()


def test_what_is_there_is_made_private_or_refused(tmp_path: Path) -> None:
    open_directory = tmp_path / "open"
    open_directory.mkdir(mode=0o755)
    assert stat.S_IMODE(private_directory(open_directory).stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(open_directory)
    for name in ("file", "link"):
        with pytest.raises(FailedPrecondition, match="must be a directory of user id"):
            private_directory(tmp_path / name)
    with pytest.raises(FailedPrecondition):
        private_directory(open_directory, os.geteuid() + 1)
