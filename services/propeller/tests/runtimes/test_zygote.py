"""The parts of the zygote that need no fork: command lines, code distributions, and reading /proc."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.propeller.runtimes import zygote
from aerodrome.propeller.runtimes.zygote import DistributionError, Distributions, interpret

INNER = ["pyflyte-execute", "--inputs", "i", "--resolver", "r", "--", "task-module", "m", "--resolver", "x"]


# -- command lines -----------------------------------------------------------------------------------------------------


def test_the_interpreted_command_is_the_one_that_flytekit_would_execute(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner
    from flytekit.bin import entrypoint

    executed: list[list[str]] = []
    monkeypatch.setattr(entrypoint, "_download_distribution", lambda reference, folder: None)

    def run(command: list[str], env: object) -> int:
        executed.append(command)
        return 0

    monkeypatch.setattr(entrypoint, "_run_subprocess", run)
    inner = INNER[:-2]
    options = ["--additional-distribution", "/d.tar.gz", "--dest-dir", "/attempt", "--", *inner]
    CliRunner().invoke(entrypoint.fast_execute_task_cmd, options)
    command = interpret(["pyflyte-fast-execute", *options], "/attempt")
    assert [command.name, *command.arguments] == executed[0]
    assert command.distribution == "/d.tar.gz"


@pytest.mark.parametrize("form", ["--additional-distribution=/d.tar.gz", "--additional-distribution /d.tar.gz"])
@pytest.mark.parametrize("destination", ["--dest-dir /root", "--dest-dir=/root", "--dest-dir .", ""])
@pytest.mark.parametrize("separator", ["--", ""])
def test_every_form_of_the_options_is_understood(form: str, destination: str, separator: str) -> None:
    argv = ["/usr/bin/pyflyte-fast-execute", *form.split(), *destination.split(), *separator.split(), *INNER]
    command = interpret(argv, "/attempt")
    assert command.name == "pyflyte-execute"
    assert command.distribution == "/d.tar.gz"
    place = command.arguments.index("--dynamic-dest-dir")
    assert command.arguments[place + 1] == "/attempt"
    assert command.arguments[place + 2] == "--resolver"
    assert command.arguments.count("--dynamic-dest-dir") == 1


@pytest.mark.parametrize("argv", [[], ["--dest-dir"], ["--dest-dir", "x"], ["--unknown", "x", "y"]])
def test_an_incomplete_fast_execute_is_an_error(argv: list[str]) -> None:
    with pytest.raises(ValueError, match="pyflyte-fast-execute"):
        interpret(["pyflyte-fast-execute", *argv], "/attempt")


@given(st.lists(st.text("ab-=/. ", max_size=10), min_size=1, max_size=6))
def test_any_other_command_is_left_as_it_is(argv: list[str]) -> None:
    assert interpret(argv, "/attempt") == ("", argv, None)


@pytest.mark.parametrize(
    ("name", "fresh"),
    [("PYTHONPATH", False), ("PYTHONUNBUFFERED", False), ("FLYTE_SDK_LOGGING_LEVEL", False),
     ("_F_L_MIN_SIZE_MB", False), ("PYTHONHASHSEED", True),
     ("LD_PRELOAD", True), ("MALLOC_ARENA_MAX", True), ("_F_P_WRITE_CHUNK_SIZE", True)],
)  # fmt: skip
def test_variables_that_only_a_new_process_reads_are_known(name: str, fresh: bool) -> None:
    assert zygote.needs_fresh_process({name: "1", "HOME": "/"}) is fresh


# -- code distributions ------------------------------------------------------------------------------------------------


def pack(path: Path, *members: tuple[str, str] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(b"x" * member.size))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1].encode()))
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.fixture
def cache(tmp_path: Path) -> Distributions:
    return Distributions(str(tmp_path / "cache"), 1 << 20)


def laid(cache: Distributions, archive: Path, folder: Path) -> dict[str, str]:
    folder.mkdir()
    cache.lay(str(archive), str(folder), None)
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def contents(cache: Distributions, tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "cache" / "content")


def test_the_same_content_is_unpacked_once(cache: Distributions, tmp_path: Path) -> None:
    first = pack(tmp_path / "one.tar.gz", ("a.py", "A = 1"), ("p/b.py", "B = 1"))
    second = tmp_path / "two.tar.gz"
    second.write_bytes(first.read_bytes())
    for number, archive in enumerate((first, first, second)):
        assert laid(cache, archive, tmp_path / f"d{number}") == {"a.py": "A = 1", "p/b.py": "B = 1"}
    assert len(contents(cache, tmp_path)) == 1


def test_a_reference_that_gets_other_content_is_unpacked_again(cache: Distributions, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", ("a.py", "A = 1"))
    assert laid(cache, archive, tmp_path / "d1") == {"a.py": "A = 1"}
    pack(archive, ("a.py", "A = 22"))
    assert laid(cache, archive, tmp_path / "d2") == {"a.py": "A = 22"}


def test_what_changed_in_the_cache_is_not_used(cache: Distributions, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", ("a.py", "A = 1"), ("b.py", "B = 1"))
    laid(cache, archive, tmp_path / "d1")
    [content] = contents(cache, tmp_path)
    stored = tmp_path / "cache" / "content" / content / "tree" / "a.py"
    assert stored.stat().st_mode & 0o222 == 0
    stored.chmod(0o644)
    stored.write_text("A = 2")
    assert laid(cache, archive, tmp_path / "d2") == {"a.py": "A = 1", "b.py": "B = 1"}
    (tmp_path / "cache" / "content" / content / "tree" / "b.py").unlink()
    assert laid(cache, archive, tmp_path / "d3") == {"a.py": "A = 1", "b.py": "B = 1"}


def test_a_laid_file_is_a_copy(cache: Distributions, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", ("a.py", "A = 1"))
    laid(cache, archive, tmp_path / "d1")
    (tmp_path / "d1" / "a.py").write_text("changed")
    (tmp_path / "d1" / "a.py").chmod(0o000)
    assert laid(cache, archive, tmp_path / "d2") == {"a.py": "A = 1"}


def test_many_at_once_share_one_unpacking(cache: Distributions, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", *((f"m{number}.py", f"A = {number}") for number in range(50)))
    found: list[int] = []

    def lay(number: int) -> None:
        found.append(len(laid(cache, archive, tmp_path / f"d{number}")))

    threads = [threading.Thread(target=lay, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [50] * 8
    assert len(contents(cache, tmp_path)) == 1
    assert os.listdir(tmp_path / "cache" / "incoming") == []


def test_the_least_recently_used_is_evicted(cache: Distributions, tmp_path: Path) -> None:
    archives = [pack(tmp_path / f"{n}.tar.gz", ("data", chr(97 + n) * 400_000)) for n in range(3)]
    for number, archive in enumerate(archives):
        laid(cache, archive, tmp_path / f"d{number}")
        for content in contents(cache, tmp_path):  # make all that is there older
            folder = tmp_path / "cache" / "content" / content
            os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - 100))
    laid(cache, archives[0], tmp_path / "again")
    assert len(cache.evict()) == 1
    assert len(contents(cache, tmp_path)) == 2
    assert cache.evict() == []
    for number, archive in enumerate(archives):
        assert laid(cache, archive, tmp_path / f"e{number}")["data"][0] == chr(97 + number)


@pytest.mark.parametrize(
    "member",
    [
        ("../out.py", "x"),
        ("/tmp/out.py", "x"),
        ("a/../../out.py", "x"),
        special("link", tarfile.SYMTYPE, "../../outside"),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "../../etc/passwd"),
        special("hard", tarfile.LNKTYPE, "/etc/passwd"),
        special("device", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: member[0] if isinstance(member, tuple) else f"{member.name}-{member.linkname}",
)
def test_nothing_escapes_from_an_archive(cache: Distributions, tmp_path: Path, member: tuple[str, str]) -> None:
    archive = pack(tmp_path / "a.tar.gz", ("fine.py", "A = 1"), member)
    (tmp_path / "d").mkdir()
    with pytest.raises(DistributionError, match="cannot be unpacked"):
        cache.lay(str(archive), str(tmp_path / "d"), None)
    assert list((tmp_path / "d").iterdir()) == []
    assert os.listdir(tmp_path / "cache" / "incoming") == []


def test_a_link_cannot_be_used_to_write_outside(cache: Distributions, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = pack(tmp_path / "a.tar.gz", special("in", tarfile.SYMTYPE, "."), ("in/../../x.py", "x"))
    (tmp_path / "d").mkdir()
    with pytest.raises(DistributionError):
        cache.lay(str(archive), str(tmp_path / "d"), None)


def test_links_and_modes_inside_are_kept(cache: Distributions, tmp_path: Path) -> None:
    script = tarfile.TarInfo("bin/run")
    script.size, script.mode = 3, 0o4755
    archive = pack(
        tmp_path / "a.tar.gz", script, ("lib/a.py", "A = 1"), special("b.py", tarfile.SYMTYPE, "lib/a.py"),
        special("c.py", tarfile.LNKTYPE, "lib/a.py"),
    )  # fmt: skip
    assert laid(cache, archive, tmp_path / "d")["b.py"] == "A = 1"
    assert (tmp_path / "d" / "b.py").is_symlink()
    assert (tmp_path / "d" / "c.py").read_text() == "A = 1"
    assert (tmp_path / "d" / "bin" / "run").stat().st_mode & 0o7777 == 0o755


def test_an_archive_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "bomb.tar.gz", ("zeros", "0" * 2_000_000))
    (tmp_path / "d").mkdir()
    with pytest.raises(DistributionError, match="exceeds"):
        Distributions(str(tmp_path / "cache"), 1 << 20).lay(str(archive), str(tmp_path / "d"), None)


def test_a_pickled_distribution_is_laid_as_it_is(cache: Distributions, tmp_path: Path) -> None:
    (tmp_path / "pkl.gz").write_bytes(b"pickle")
    assert laid(cache, tmp_path / "pkl.gz", tmp_path / "d") == {"pkl.gz": "pickle"}


def test_what_is_elsewhere_is_fetched_once(cache: Distributions, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", ("a.py", "A = 1"))
    fetched: list[str] = []

    def fetch(reference: str, path: str) -> None:
        fetched.append(reference)
        Path(path).write_bytes(archive.read_bytes())

    for number in range(2):
        (tmp_path / f"d{number}").mkdir()
        cache.lay("s3://bucket/a.tar.gz", str(tmp_path / f"d{number}"), fetch)
        assert (tmp_path / f"d{number}" / "a.py").exists()
    assert fetched == ["s3://bucket/a.tar.gz"]
    with pytest.raises(DistributionError, match="install flytekit"):
        cache.lay("s3://bucket/b.tar.gz", str(tmp_path / "d0"), None)


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    marker = {zygote.MARKER: "ns/name@runtime", "PATH": os.environ["PATH"]}
    child = subprocess.Popen(["sh", "-c", "sleep 300 & echo; wait"], env=marker, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    zygote_members = zygote.members(child.pid, 0, "ns/name@runtime")
    for pid in zygote_members:
        zygote.send_signal(pid, 9)
    child.wait()
    child.stdout.close()


def test_members_are_found_by_descent_and_by_marker(sleeper: subprocess.Popen[bytes]) -> None:
    found = zygote.process(sleeper.pid)
    assert found is not None
    assert zygote.is_alive(sleeper.pid, found.start)
    assert not zygote.is_alive(sleeper.pid, found.start + 1)
    by_descent = zygote.members(sleeper.pid, found.start, "nobody")
    assert len(by_descent) == 2
    assert zygote.members(sleeper.pid, found.start + 1, "nobody") == {}  # another process with this pid is not ours
    assert set(zygote.members(0, 0, "ns/name@runtime")) == set(by_descent)
    assert zygote.members(0, 0, "ns/name@another") == {}


def test_a_claim_is_granted_once(tmp_path: Path) -> None:
    record = str(tmp_path / "pod")
    assert zygote.claim(record, {"pid": 1})
    assert not zygote.claim(record, {"pid": 2})
    assert zygote.read_json(record + ".pid") == {"pid": 1}


def test_a_torn_file_reads_as_empty_and_a_missing_one_as_none(tmp_path: Path) -> None:
    (tmp_path / "torn").write_text('{"pid": ')
    assert zygote.read_json(str(tmp_path / "torn")) == {}
    assert zygote.read_json(str(tmp_path / "missing")) is None


def test_the_zygote_needs_the_standard_library_only() -> None:
    """And tasks find nothing of it."""
    code = """
import json, runpy, sys
before = list(sys.path)
zygote = runpy.run_path(sys.argv[1])["load"]("server")
main = zygote.server.main
print(json.dumps([before == sys.path, sorted(sys.modules), sorted(sys.path_importer_cache), zygote.server.__name__]))
"""
    command = [sys.executable, "-I", "-S", "-c", code, zygote.PROGRAM]
    same, modules, searched, name = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert same
    known = sys.stdlib_module_names | {"__main__"}
    assert {each.partition(".")[0] for each in modules} <= known
    assert str(Path(zygote.PROGRAM).parent) not in searched
    assert name.partition(".")[0] not in modules


def test_the_pages_that_a_fork_writes_to_are_told_from_those_that_it_shares() -> None:
    code = """
import json, mmap, os, runpy, sys
copied_pages = runpy.run_path(sys.argv[1])["load"]("kernel").kernel.copied_pages
size = mmap.PAGESIZE
area = mmap.mmap(-1, 64 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area[:] = b"x" * (64 * size)
import ctypes
start = ctypes.addressof(ctypes.c_char.from_buffer(area))
read, write = os.pipe()
if os.fork() == 0:
    areas = [(start, start + 64 * size)]
    before = copied_pages(areas)
    for page in (3, 4, 20, 22):
        area[page * size] = 1
    after = copied_pages(areas)
    found = [[((a - start) // size, b // size) for a, b in each] for each in (before, after)]
    os.write(write, json.dumps(found).encode())
    os._exit(0)
print(os.read(read, 4096).decode())
"""
    out = subprocess.run([sys.executable, "-c", code, zygote.PROGRAM], capture_output=True, check=True, text=True)
    before, after = json.loads(out.stdout)
    assert before == []
    assert after == [[3, 2], [20, 3]]  # 21 is between two that changed
