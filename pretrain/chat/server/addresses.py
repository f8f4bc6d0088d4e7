"""Media by address: data in the request, files in named folders, and pages of named hosts."""

import asyncio
import base64
import binascii
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pretrain.chat.server.limits import Refused, ServerLimits


@dataclass(frozen=True)
class Allowed:
    """Where media may come from besides the request itself.

    folders: of files that `file:` may name. hosts: as `example.org` or `example.org:8080`, by http and https.
    """

    folders: tuple[Path, ...] = ()
    hosts: frozenset[str] = frozenset()


async def fetch(address: str, allowed: Allowed, limits: ServerLimits) -> str | bytes:
    """The path of a file, or the bytes behind an address.

    Raises:
        Refused: the address is not allowed, not there, or its content above a limit.
    """
    scheme = address[:8].partition(":")[0].lower()
    if scheme == "data":
        return _data(address, limits)
    if scheme == "file":
        return _file(address, allowed, limits)
    if scheme in ("http", "https"):
        try:
            async with asyncio.timeout(limits.fetch_seconds):
                return await _page(address, allowed, limits)
        except TimeoutError:
            raise Refused(400, f"a medium did not come within {limits.fetch_seconds:g} s") from None
    raise Refused(400, "a medium is a data: URL in base64, or an address by file:, http: or https:")


def _data(address: str, limits: ServerLimits) -> bytes:
    head, comma, body = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise Refused(400, "a data: URL here has the form data:video/mp4;base64,...")
    if len(body) > limits.media_bytes * 4 // 3 + 4:
        raise Refused(413, f"a medium has more than {limits.media_bytes} bytes")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "a data: URL holds no base64") from None


def _file(address: str, allowed: Allowed, limits: ServerLimits) -> str:
    """The same answer for all that is not allowed and all that is not there: nothing is told about the disk."""
    refused = Refused(400, "no such file among those that may be read")
    try:
        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise refused
        path = Path(os.path.realpath(unquote(parts.path)))
        inside = any(path.is_relative_to(os.path.realpath(folder)) for folder in allowed.folders)
        if not inside or not path.is_file():
            raise refused
        if path.stat().st_size > limits.media_bytes:
            raise Refused(413, f"a medium has more than {limits.media_bytes} bytes")
    except (OSError, ValueError):  # ValueError: a null byte
        raise refused from None
    return str(path)


async def _page(address: str, allowed: Allowed, limits: ServerLimits) -> bytes:
    import aiohttp

    try:
        parts = urlsplit(address)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    except ValueError:
        raise Refused(400, "an address is no URL") from None
    if host not in allowed.hosts or parts.username is not None or parts.password is not None:
        raise Refused(400, "this host is not among those that media may come from")
    connector = aiohttp.TCPConnector(resolver=_public_resolver())
    try:
        # A redirect would lead past the list of hosts, and settings of the environment through a proxy.
        async with (
            aiohttp.ClientSession(connector=connector, trust_env=False) as session,
            session.get(address, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise Refused(400, f"the host of a medium answered {response.status}")
            content = bytearray()
            async for piece in response.content.iter_chunked(2**16):
                content += piece
                if len(content) > limits.media_bytes:
                    raise Refused(413, f"a medium has more than {limits.media_bytes} bytes")
            return bytes(content)
    except (aiohttp.ClientError, OSError, ValueError):
        raise Refused(400, "a medium could not be fetched from its host") from None


def _public_resolver() -> Any:
    """Names lead to public addresses only: a listed name that points into one's own network is refused. An address
    that is listed itself as a number is not looked up."""
    from aiohttp.resolver import ThreadedResolver

    class PublicResolver(ThreadedResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list:
            found = await super().resolve(host, port, family)
            if not all(is_public(each["host"]) for each in found):
                raise OSError(f"{host} is no public address")
            return found

    return PublicResolver()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    return ipaddress.ip_address(address.partition("%")[0]).is_global


def allow(folders: Sequence[str] = (), hosts: Sequence[str] = ()) -> Allowed:
    """FileNotFoundError if a folder is not there; ValueError if a host is not as `urlsplit` gives it."""
    for folder in folders:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no folder {folder} of files that may be read")
    for host in hosts:
        if urlsplit(f"//{host}").netloc != host or host != host.lower() or "@" in host:
            raise ValueError(f"{host!r} is no host: give it as example.org or example.org:8080")
    return Allowed(tuple(map(Path, folders)), frozenset(hosts))
