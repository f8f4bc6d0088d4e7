"""How many shards are in use at once: each lane of the order reads one, and needs a descriptor or room in the cache."""

import resource

_LEAST = 64  # tars that a process keeps open in any case
_OTHERS = 256  # descriptors for all else: libraries, sockets, buffers of the loader


def tars_to_keep_open(lanes: int) -> int:
    """How many tars a process should keep open, so that a lane finds its tar open whenever its turn comes.

    Raises the limit of open files of this process if that is needed and allowed.

    Raises:
        ValueError: the system allows fewer open files.
    """
    wanted = max(_LEAST, lanes + lanes // 4 + 2)  # lanes pass from one shard to the next
    allow_open(wanted)
    return wanted


def allow_open(tars: int) -> None:
    """Raises this process's limit of open files as far as so many tars need; ValueError if it may not be so high."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = tars + _OTHERS
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise ValueError(
            f"shards in use at once need {wanted} open files, and this system allows {hard}: raise `ulimit -n`, or set "
            f"data.lanes to {max(1, (hard - _OTHERS) * 3 // 4)} or fewer"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_cache(lanes: int, largest: int, limit: int) -> None:
    """ValueError if a cache of `limit` bytes cannot hold a shard of `largest` bytes for each lane.

    Then each sample would fetch its whole shard again.
    """
    fits = limit // max(1, largest)
    if fits < lanes:
        raise ValueError(
            f"{lanes} lanes of shards of up to {largest} bytes need a cache of {lanes * largest} bytes, and "
            f"cache_bytes of Shards is {limit}: raise it, or set data.lanes to {max(1, fits)} or fewer"
        )
