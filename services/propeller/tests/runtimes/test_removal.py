"""Directories that are removed the quick way: little ones only, and nothing that they lead to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aerodrome.propeller.runtimes.records import remove_small_tree, remove_tree

Tree = Mapping[str, Any] | None
TREES = st.recursive(
    st.none(), lambda below: st.dictionaries(st.sampled_from("abcdefgh"), below, max_size=8), max_leaves=120
)


def grow(folder: Path, tree: Tree) -> int:
    """Make the tree; how many entries it has."""
    if tree is None:
        folder.write_bytes(b"x")
        return 0
    folder.mkdir()
    return sum(1 + grow(folder / name, below) for name, below in tree.items())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(tree=TREES.filter(lambda tree: tree is not None))
def test_a_little_tree_goes_and_a_large_one_is_left_to_the_thorough_way(
    tmp_path: Path, tree: dict[str, object]
) -> None:
    folder = tmp_path / "tree"
    entries = grow(folder, tree)
    assert remove_small_tree(str(folder)) == (entries <= 64)
    assert folder.exists() == (entries > 64)
    remove_tree(folder)
    assert not folder.exists()


def test_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"x")
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "link").symlink_to(tmp_path / "elsewhere")
    assert remove_small_tree(str(tmp_path / "tree"))
    assert (tmp_path / "elsewhere" / "file").exists()
    (tmp_path / "itself").symlink_to(tmp_path / "elsewhere")
    assert not remove_small_tree(str(tmp_path / "itself"))
    assert (tmp_path / "elsewhere" / "file").exists()


def test_what_is_not_there_is_removed_and_a_large_file_is_not_touched(tmp_path: Path) -> None:
    assert remove_small_tree(str(tmp_path / "nothing"))
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree" / "large").open("wb") as file:
        file.truncate(64 << 20)
    assert not remove_small_tree(str(tmp_path / "tree"))
    assert (tmp_path / "tree" / "large").exists()


def test_what_its_owner_made_unwritable_is_left_to_the_thorough_way(ordinary_folder: Path) -> None:
    (ordinary_folder / "tree" / "kept").mkdir(parents=True)
    (ordinary_folder / "tree" / "kept" / "file").write_bytes(b"x")
    (ordinary_folder / "tree" / "kept").chmod(0o500)
    assert not remove_small_tree(str(ordinary_folder / "tree"))
    remove_tree(ordinary_folder / "tree")
    assert not (ordinary_folder / "tree").exists()
