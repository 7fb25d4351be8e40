"""What the kernel tells of a file, by whatever way it changes."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentsup._linux.file_watch import FileWatch


def is_readable(watch: FileWatch) -> bool:
    return bool(select.select([watch.fd], [], [], 0)[0])


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("more")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    other.rename(path)


def make_again(path: Path) -> None:
    path.unlink()
    path.touch()


def link_in(path: Path) -> None:
    """From another directory, as a rename may come from there."""
    other = path.parent / "elsewhere" / "file"
    other.parent.mkdir(exist_ok=True)
    other.touch()
    path.unlink()
    os.link(other, path)


CHANGES: list[Callable[[Path], object]] = [
    Path.touch,
    append,
    replace,
    make_again,
    link_in,
    Path.unlink,
]
each_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


@pytest.fixture
def watch(path: Path) -> Iterator[FileWatch]:
    watch = FileWatch(os.fsencode(path))
    yield watch
    watch.close()


@each_change
def test_a_change_is_told_once(
    watch: FileWatch, path: Path, change: Callable[[Path], object]
) -> None:
    assert not watch.changed()
    change(path)
    assert is_readable(watch)
    assert watch.changed()
    assert not is_readable(watch)
    assert not watch.changed()


@each_change
@pytest.mark.parametrize("first", [replace, make_again, link_in])
def test_what_has_taken_the_name_is_watched_in_its_place(
    watch: FileWatch, path: Path, first: Callable[[Path], object], change: Callable[[Path], object]
) -> None:
    with path.open("a") as old:
        first(path)
        assert watch.changed()
        old.write("to what has the name no longer")
    watch.changed()  # the end of its own watch
    change(path)
    assert watch.changed()


def test_the_old_file_is_watched_no_more(watch: FileWatch, path: Path) -> None:
    with path.open("a") as old:
        replace(path)
        watch.changed()
        watch.changed()
        old.write("to what has the name no longer")
        old.flush()
        assert not is_readable(watch)


def test_a_file_that_is_missing_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "file"
    watch = FileWatch(os.fsencode(path))
    try:
        path.touch()
        assert watch.changed()
        append(path)
        assert watch.changed()
    finally:
        watch.close()


def test_other_files_of_the_directory_are_nothing(watch: FileWatch, path: Path) -> None:
    path.with_name("file2").touch()
    path.with_name("fil").touch()
    assert is_readable(watch)
    assert not watch.changed()


def test_a_link_leads_to_the_file_that_changes(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "target"
    target.parent.mkdir()
    target.touch()
    (tmp_path / "link").symlink_to(target)
    watch = FileWatch(os.fsencode(tmp_path / "link"))
    try:
        for change in (append, replace, append):
            change(target)
            assert watch.changed()
    finally:
        watch.close()


def test_more_than_the_kernel_queues_counts_as_a_change(watch: FileWatch, path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 20_000:
        pytest.skip("it queues very many")
    names = [path.with_name(name) for name in "ab"]
    for name in names:
        name.touch()
    for index in range(limit + 10):
        names[index % 2].rename(path.with_name("moved"))
        path.with_name("moved").rename(names[index % 2])
    told = [watch.changed()]
    while is_readable(watch):
        told.append(watch.changed())
    assert any(told)


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        FileWatch(os.fsencode(tmp_path / "missing" / "file"))
    with pytest.raises(NotADirectoryError):
        FileWatch(os.fsencode(tmp_path / "file" / "file"))
