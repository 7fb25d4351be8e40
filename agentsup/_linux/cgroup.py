"""Control groups, version 2 (cgroups(7) and the kernel's cgroup-v2.rst): one leaf for each call.

::

    HOME                          the host's own group, or the one that was delegated to it
    ├── agentsup-host             the host itself, where HOME has to be empty for the controllers
    └── agentsup-TAG              one for each keeper, in its record; holds no process itself
        └── NUMBER                a call's leaf: its main process is born or moved into it

``cgroup.kill`` ends all that is in a leaf and below it at one stroke, faster than anything can
fork.  A process that moves itself elsewhere, where it may, is still found by its tag.

This file imports the standard library only: the keeper loads it when a call wants a leaf.
"""

from __future__ import annotations

import os
import select
import time

from .keeper import MEMORY_HIT, PROCESSES_HIT, read_proc

PREFIX = "agentsup-"
REMOVE_BOUND = 1.0  # seconds that a killed group may take to become empty


def own() -> str | None:
    """The directory of this process's group, or None where no version 2 hierarchy is mounted."""
    inside = b""
    for line in read_proc("/proc/self/cgroup").splitlines():
        if line.startswith(b"0::"):
            inside = line[3:]
    for line in read_proc("/proc/self/mountinfo", 1 << 20).splitlines():
        left, _, right = line.partition(b" - ")
        if right.startswith(b"cgroup2 ") and inside:
            root, mounted = left.split()[3:5]
            within = inside.removeprefix(root.rstrip(b"/")) if inside.startswith(root) else inside
            return os.fsdecode(mounted + (b"" if within == b"/" else within))
    return None


class Group:
    """A group's directory."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, file: str, value: str) -> None:
        fd = os.open(f"{self.path}/{file}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def read(self, file: str) -> bytes:
        return read_proc(f"{self.path}/{file}")

    def enter(self) -> None:
        """Move this process in. Its children are born where it is."""
        self.write("cgroup.procs", "0")

    def kill(self) -> None:
        """SIGKILL to all that is in it and below it, at one stroke (Linux 5.14)."""
        self.write("cgroup.kill", "1")

    def wait_empty(self, seconds: float) -> None:
        """Wait until nothing lives in it or below it, but not for longer than that."""
        fd = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            deadline = time.monotonic() + seconds
            while (
                b"populated 1" in os.pread(fd, 4096, 0)
                and (left := deadline - time.monotonic()) > 0
            ):
                poll.poll(left * 1000)
        finally:
            os.close(fd)

    def remove(self) -> bool:
        """Remove it and what a tool has made below it; False if something lives in it."""
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            pass
        except OSError:
            try:
                below = [entry.path for entry in os.scandir(self.path) if entry.is_dir()]
                removed = [Group(path).remove() for path in below]
                if not below or not all(removed):
                    return False
                os.rmdir(self.path)
            except OSError:
                return False
        return True


class Leaf(Group):
    """The group of one call."""

    def __init__(self, parent: str, number: int, settings: list[str]) -> None:
        super().__init__(f"{parent}/{number}")
        os.mkdir(self.path)
        try:
            for setting in settings:
                file, _, value = setting.partition("=")
                self.write(file, value)
        except BaseException:
            os.rmdir(self.path)
            raise

    def hits(self) -> int:
        """Which of its limits the call has run into."""
        events = self.read("memory.events"), self.read("pids.events")
        wanted = (b"oom_kill ", MEMORY_HIT), (b"max ", PROCESSES_HIT)
        found = 0
        for text, (name, flag) in zip(events, wanted, strict=True):
            for line in text.splitlines():
                if line.startswith(name) and line != name + b"0":
                    found |= flag
        return found

    def has(self, pid: int) -> bool:
        """Whether this process is in it or below it."""
        *_, parent, number = self.path.split("/")
        inside = read_proc(f"/proc/{pid}/cgroup").rpartition(b"0::")[2].partition(b"\n")[0]
        return f"/{parent}/{number}/".encode() in inside + b"/"


def make_parent(path: str) -> None:
    """A group for the leaves of one keeper, with every controller that there is for it."""
    parent = Group(path)
    os.mkdir(path)
    for controller in parent.read("cgroup.controllers").split():
        try:
            parent.write("cgroup.subtree_control", f"+{controller.decode()}")
        except OSError:
            pass  # what needs it says so


def destroy(path: str) -> bool:
    """Kill what is in a group that a dead keeper has left, and remove it; whether it is gone."""
    group = Group(path)
    try:
        group.kill()
        group.wait_empty(REMOVE_BOUND)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return group.remove()
