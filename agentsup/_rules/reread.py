"""What differs between the tree that runs and the one that its file describes now?

===========================  =============================  ==========================
it is in the one that runs   it is in the file              what becomes of it
===========================  =============================  ==========================
no                           yes                            added
yes                          no                             removed
yes                          otherwise                      changed
yes                          below a supervisor that is     changed: it ends with that
                             there otherwise                supervisor, and starts anew
yes                          the same                       nothing
===========================  =============================  ==========================

Services and supervisors go by their paths: ``workers/a`` is below ``workers``.  What is compared is
whatever the caller has of each, by ``==``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import field, frozen


@frozen
class Plan:
    """All of a tree by its paths, each in the order of the file."""

    services: Mapping[str, object]
    supervisors: Mapping[str, object] = field(factory=dict[str, object])
    #: What is the daemon's own, by its keys.
    daemon: Mapping[str, object] = field(factory=dict[str, object])


@frozen
class Changes:
    """What an update does, as the paths of services."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    #: The keys whose new values count when the daemon is started anew.
    daemon_changed: tuple[str, ...] = ()


def compare(running: Plan, file: Plan) -> Changes:
    """What has to be done to make ``running`` what ``file`` says."""
    replaced = {
        path
        for path, settings in running.supervisors.items()
        if path in file.supervisors and file.supervisors[path] != settings
    }
    both = [path for path in file.services if path in running.services]
    changed = [
        path
        for path in both
        if file.services[path] != running.services[path]
        or not replaced.isdisjoint(supervisors_of(path))
    ]
    return Changes(
        added=tuple(path for path in file.services if path not in running.services),
        changed=tuple(changed),
        removed=tuple(path for path in running.services if path not in file.services),
        daemon_changed=tuple(
            key
            for key in dict.fromkeys((*file.daemon, *running.daemon))
            if file.daemon.get(key) != running.daemon.get(key)
        ),
    )


def supervisors_of(path: str) -> Iterator[str]:
    """The paths of the supervisors that it is below, the nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
