"""A lock on a folder or a file that one process writes: a second one is refused, and learns who the first one is.

The lock is the kernel's `flock` on a small file, held as long as the process lives: a killed holder, on this machine or
another, leaves no lock behind. On NFS since version 4 (and on version 3 with lockd) it holds between machines; if a
machine dies, its server frees the lock after the lease, about 90 seconds. On a file system without locks (Lustre
mounted without `flock`, some FUSE ones) a warning says that a second writer would not be noticed, and what follows.
Our own rather than the library filelock, which names no holder.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Self

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
# What opening, locking or looking at a file gives while another process removes it, on one file system or another.
_VANISHED = (errno.ENOENT, errno.ESTALE)
_HELD = (errno.EAGAIN, errno.EACCES)  # EACCES: where `flock` is made of POSIX locks, as on NFS
_ATTEMPTS = 1000  # to get hold of the lock's file while others make and remove it
_POLL_SECONDS = 0.2
_held: set["Lock"] = set()  # by this process


class InUse(ValueError):
    """Another process, or another part of this one, holds the lock."""


class Lock:
    """A lock that is held from its making until `release`, the end of a `with` block, or the end of the process.

    Args:
        file: the lock's own file; its folder is made if needed, and the file is deleted on release.
        what: what it protects, for the message.
        wait: seconds to wait for another holder to end.

    Raises:
        InUse: it is held by another; the message names the machine and the process.
    """

    def __init__(self, file: Path, what: str | Path, wait: float = 0.0) -> None:
        self.file, self.descriptor = file, -1
        file.parent.mkdir(parents=True, exist_ok=True)
        until, told = time.monotonic() + wait, False
        while not self._take():
            if time.monotonic() >= until:
                raise InUse(
                    f"{what} is in use by {_holder(file)}: wait for its end, or choose another place"
                    + (f" (waited {wait:g} s)" if wait else "")
                )
            if not told:
                log.warning("%s is in use by %s: waiting up to %g s for its end", what, _holder(file), wait)
                told = True
            time.sleep(_POLL_SECONDS)
        _held.add(self)

    def _take(self) -> bool:
        """Whether the lock is ours now; False: another holds it."""
        for _ in range(_ATTEMPTS):
            try:
                taken = self._try()
            except OSError as error:
                if error.errno not in _VANISHED:
                    raise
                self.file.parent.mkdir(parents=True, exist_ok=True)  # it may have gone with the file
                continue
            if taken is not None:
                return taken
        raise OSError(
            f"{self.file} cannot be locked: it is another file each time that it is looked at; choose a place on "
            "another file system"
        )

    def _try(self) -> bool | None:
        """Whether the lock is ours now; False: another holds it; None: its holder deleted the file meanwhile."""
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            taken = _lock(descriptor, self.file) and (self._is_current(descriptor) or None)
        except BaseException:
            os.close(descriptor)
            raise
        if not taken:
            os.close(descriptor)
            return taken
        self.descriptor = descriptor
        self._sign()
        return True

    def _is_current(self, descriptor: int) -> bool:
        """Whether the file is still the one by that name."""
        ours = os.fstat(descriptor)
        return ours.st_nlink > 0 and os.path.samestat(ours, os.stat(self.file))

    def _sign(self) -> None:
        """Write who holds the lock. It holds without that too: on a full disk there is no room for it."""
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, json.dumps(about).encode(), 0)

    def release(self) -> None:
        """Frees the lock; without effect if that is done."""
        _held.discard(self)
        if self.descriptor >= 0:
            with contextlib.suppress(OSError):  # the folder is gone, or became read-only
                if self._is_current(self.descriptor):  # somebody may have removed the folder and begun anew
                    os.unlink(self.file)  # before closing: the next holder's file is another one
            os.close(self.descriptor)
        self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_folder(folder: Path, wait: float = 0.0) -> Lock:
    """The lock of a folder that a tool writes."""
    return Lock(folder / ".lock", folder, wait)


def lock_file(file: Path, wait: float = 0.0) -> Lock:
    """The lock of a file that a tool writes."""
    return Lock(file.with_name(f".{file.name}.lock"), file, wait)


def _lock(descriptor: int, file: Path) -> bool:
    """Whether the file is locked by us, or cannot be locked at all; False: another holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno not in _NO_LOCKS:
            raise
        log.warning(
            "%s: this file system has no file locks (%s), so a second writer would not be noticed: two that write "
            "there at once damage each other's files. See to it that there is only one, or choose another place",
            file,
            error.strerror,
        )
    return True


def _holder(file: Path) -> str:
    try:
        about = json.loads(file.read_bytes())
        return f"process {int(about['pid'])} on {about['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just taken the lock, or released it
        return "another process"


def _forget() -> None:
    """A forked process must not hold its parent's locks: they would outlive the parent."""
    for lock in list(_held):
        os.close(lock.descriptor)  # without unlocking, which would free the parent's lock too
        lock.descriptor = -1
    _held.clear()


os.register_at_fork(after_in_child=_forget)
