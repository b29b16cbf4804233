"""One run at a time in a folder: a file there names the processes that work in it.

with locked(Path("runs/one")):
    ...                             # no other run writes there

The file is made exclusively and removed at the end. It names each process by host, process id and
start time, so that the lock of a killed run is told from one that holds.
"""

import contextlib
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.files import complain, printable

LOCK = ".lock"  # name of the file
MAX_LOCK_BYTES = 1 << 20  # over 10,000 processes
WRITING_SECONDS = 1  # a lock file that is empty for so long was left by a killed process
POLL_SECONDS = 0.05
MAX_PID = (1 << 31) - 1
TEMPORARY = re.compile(r"\..+\.([0-9]{1,9})\.tmp")  # what `common.files.write` begins with


class LockError(OSError):
    """Another run has the folder; the message says which, and what to do about it."""


class Owner(NamedTuple):
    """A process that has a lock."""

    host: str
    pid: int
    start: str  # of the process, in clock ticks since the system started; "" if it is not known


def this_process() -> Owner:
    """Return the process that calls."""
    _, start = _state_and_start(os.getpid())
    return Owner(socket.gethostname(), os.getpid(), start)


@contextlib.contextmanager
def locked(folder: Path, owners: Sequence[Owner] = ()) -> Iterator[None]:
    """Make a folder if there is none, and hold its lock for the block.

    owners: the processes that share it; this one if none are given.

    The lock of processes that are gone is taken over, with a line on stderr; one of another host is
    not. A new folder that is empty at the end is removed. Raises LockError if another run has the
    folder, OSError if the file cannot be written.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _file(folder / LOCK, list(owners) or [this_process()]):
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextlib.contextmanager
def _file(path: Path, owners: Sequence[Owner]) -> Iterator[None]:
    """Have the lock file for the block. Raises as `locked`."""
    content = json.dumps(owners).encode()
    started = time.monotonic()
    while not _create(path, content):
        found = _read(path)
        if found == b"" and time.monotonic() - started < WRITING_SECONDS:
            time.sleep(POLL_SECONDS)
        elif found is not None:
            _take_over(path, found)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _read(path) == content:  # or somebody removed it, and another run has the folder
                path.unlink()


def _create(path: Path, content: bytes) -> bool:
    """Make the lock file and return True, or return False if there is one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError:  # a full disk
        path.unlink(missing_ok=True)
        raise
    return True


def _read(path: Path) -> bytes | None:
    """Return what a lock file holds, None if there is none. Raises LockError if it is no file."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(MAX_LOCK_BYTES)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except OSError:  # a link, a folder
        pass
    raise LockError(f"{printable(path)} is no regular file: remove it")


def _take_over(path: Path, content: bytes) -> None:
    """Remove a lock file with this content, unless one of its processes is at work.

    Raises LockError if one is, or if that cannot be told.
    """
    owners = _owners(path, content) if content else []
    for owner in owners:
        if owner.host != socket.gethostname():
            raise LockError(
                f"{printable(path.parent)} is in use by process {owner.pid} of host "
                f"{printable(owner.host)}: if that run is gone, remove {printable(path)}"
            )
        if not _is_gone(owner):
            raise LockError(
                f"{printable(path.parent)} is in use by process {owner.pid} of this machine: "
                "wait for it, or choose another folder"
            )
    if _remove(path, content):
        whose = f"process {owners[0].pid}, which" if owners else "a process that"
        complain(f"took over {printable(path)} of {whose} is gone")


def _owners(path: Path, content: bytes) -> list[Owner]:
    """Return the processes that a lock file names. Raises LockError if it does not say."""
    try:
        owners = [Owner(*fields) for fields in json.loads(content)]
        known = [_is_owner(owner) for owner in owners]
    except (ValueError, TypeError, RecursionError):
        known = []
    if not known or not all(known):
        raise LockError(
            f"{printable(path)} does not say whose it is: if no run is at work, remove it"
        )
    return owners


def _is_owner(owner: Owner) -> bool:
    texts = isinstance(owner.host, str) and isinstance(owner.start, str)
    return texts and type(owner.pid) is int and 0 < owner.pid <= MAX_PID


def _remove(path: Path, content: bytes) -> bool:
    """Remove a lock file that processes left; return False if another process was faster.

    The system's own lock on it is held meanwhile, so that nobody removes what another process has
    just made in its place.
    """
    import fcntl

    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        is_same = os.path.samestat(os.fstat(file.fileno()), path.lstat())
        if is_same and file.read(MAX_LOCK_BYTES) == content:
            path.unlink()
            return True
    return False


# ---- processes


def _is_gone(owner: Owner) -> bool:
    """Whether a process of this host has ended: nobody has its id, or by now another process."""
    if not is_running(owner.pid):
        return True
    _, start = _state_and_start(owner.pid)
    return "" not in (start, owner.start) and start != owner.start


def is_running(pid: int) -> bool:
    """Whether this host has a process of that id; True if that cannot be told."""
    if os.name != "posix":  # `os.kill` would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    state, _ = _state_and_start(pid)
    return state not in ("Z", "X")  # ended, but its parent has not asked yet


def _state_and_start(pid: int) -> tuple[str, str]:
    """Return state and start time of a process from Linux's /proc: proc(5), stat; else "", ""."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    fields = line.rpartition(")")[2].split()
    return fields[0], fields[19]


def remove_temporary(folder: Path) -> None:
    """Remove the files of a folder that processes of this host were writing when they ended.

    This process, which has not begun to write, counts as one that ended.
    """
    for entry in list(os.scandir(folder)):
        match = TEMPORARY.fullmatch(entry.name)
        if not match or entry.is_dir(follow_symlinks=False):
            continue
        pid = int(match[1])
        if pid == os.getpid() or not is_running(pid):
            Path(entry.path).unlink(missing_ok=True)
