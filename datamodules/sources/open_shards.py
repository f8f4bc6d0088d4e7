"""How many shards are in use at once: each lane of the order reads one, and needs a descriptor or room in the cache."""

import resource
from weakref import WeakKeyDictionary

_LEAST = 64  # tars that a source keeps open in any case
_OTHERS = 256  # descriptors for all else: libraries, sockets, buffers of the loader
_open: WeakKeyDictionary[object, int] = WeakKeyDictionary()  # tars that each source of this process keeps open
_cached: WeakKeyDictionary[object, tuple[str, int, int]] = WeakKeyDictionary()  # folder, lanes and bytes of each source


def tars_to_keep_open(owner: object, lanes: int) -> int:
    """How many tars a source should keep open, so that a lane finds its tar open whenever its turn comes.

    Raises the limit of open files of this process if that is needed and allowed.

    Raises:
        ValueError: the system allows fewer open files.
    """
    wanted = max(_LEAST, lanes + lanes // 4 + 2)  # lanes pass from one shard to the next
    allow_open(owner, wanted)
    return wanted


def allow_open(owner: object, tars: int) -> None:
    """Raises this process's limit of open files as far as so many tars of a source need, and those of all others.

    Raises:
        ValueError: it may not be so high.
    """
    _open[owner] = tars
    sources, total = len(_open), sum(_open.values())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = total + _OTHERS
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        of = f" of {sources} sources" if sources > 1 else ""
        raise ValueError(
            f"shards in use at once{of} need {wanted} open files, and this system allows {hard}: raise `ulimit -n`, or "
            f"set data.lanes to {max(1, (hard - _OTHERS) * 3 // 4 // sources)} or fewer"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_cache(owner: object, folder: str, lanes: int, largest: int, limit: int) -> None:
    """ValueError if a cache cannot hold a shard for each lane of all sources that share it.

    Then each sample would fetch its whole shard again.

    Args:
        owner: the source.
        folder: of the cache.
        lanes: of the source.
        largest: bytes of the source's largest shard.
        limit: bytes of the cache.
    """
    _cached[owner] = folder, lanes, lanes * largest
    sharing = [(count, size) for where, count, size in _cached.values() if where == folder]
    lanes, needed = sum(count for count, _ in sharing), sum(size for _, size in sharing)
    if needed > limit:
        of = f"{len(sharing)} sources" if len(sharing) > 1 else f"up to {largest} bytes"
        fits = max(1, limit * lanes // needed // len(sharing))
        raise ValueError(
            f"{lanes} lanes of shards of {of} need a cache of {needed} bytes, and cache_bytes of Shards is {limit}: "
            f"raise it, or set data.lanes to {fits} or fewer"
        )
