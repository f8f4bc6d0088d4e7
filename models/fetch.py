"""Weights to a path on this machine: by a release's name, from the Hugging Face hub, from an address, or as they lie.

The hub's files are downloaded by `huggingface_hub`, whose cache, token, mirror (HF_ENDPOINT) and offline switch
(HF_HUB_OFFLINE) hold. Other addresses are downloaded into a cache folder of ours, go on where they were cut, and are
compared with the SHA-256 that their release states. Nothing is downloaded twice.
"""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from models.releases import RELEASES, Release

CACHE = "TUBELET_WEIGHTS"  # the variable that names the folder for files of other addresses than the hub's
CACHED = "cached+"  # before an address that a stranger's file names: nothing is downloaded for it
_TRIES = 5  # connections without a new byte
_OTHER_FORMATS = ("*.h5", "*.msgpack", "*.ot", "*.tflite", "*.onnx", "*.ckpt", "*.gguf", "*fp16*", "*non_ema*", "flax*")
_BLOCK = 1 << 20  # bytes read at a time
_SECONDS = 30  # without an answer


def local_path(where: str | Path) -> Path:
    """Where weights lie on this machine; they are downloaded first if they are not here.

    Args:
        where: a path; the name of a release (`models.releases`; a path of that name comes first);
            `hf://OWNER/NAME`, a whole folder of the hub, or `hf://OWNER/NAME/FILE`, each with `@REVISION` after NAME;
            or an http(s) address. `CACHED` before an address of a file's recipe: it is taken from the cache only.

    Raises:
        FileNotFoundError: there is no such file on the hub or at the address, or it is not in the cache and there is
            no network, or the network may not be asked.
        ValueError: the address is of no known form, or the file has another SHA-256 than its release states.
    """
    text, release = str(where), None
    if text.startswith(CACHED):
        return _from_cache(text.removeprefix(CACHED))
    if text in RELEASES and not Path(text).exists():
        release = RELEASES[text]
        text = release.place
    if text.startswith("hf://"):
        return _from_hub(text)
    if text.startswith(("http://", "https://")):
        return _from_address(text, release.sha256 if release else None)
    if "://" in text:
        raise ValueError(f"weights by {text.split('://')[0]}:// are unknown: give a path, a name, hf:// or http(s)://")
    return Path(where)


def _from_cache(text: str) -> Path:
    absent = FileNotFoundError(
        f"a recipe inside a file names {text}, which is not on this machine; nothing is downloaded for such a recipe: "
        "download it yourself, if you trust it"
    )
    if not text.startswith("hf://"):
        place = _place_of(text)
        if not place.is_file():
            raise absent
        return place
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, revision, file = _of_hub(text)
    if file:
        found = try_to_load_from_cache(repository, file, _hub_cache(), revision)
        if not isinstance(found, str):
            raise absent
        return Path(found)
    try:
        return Path(snapshot_download(repository, revision=revision, cache_dir=_hub_cache(), local_files_only=True))
    except LocalEntryNotFoundError:
        raise absent from None


def is_here(release: Release) -> bool:
    """Whether a release's file is in its cache; of a whole folder, its configuration."""
    if not release.place.startswith("hf://"):
        return _place_of(release.place).is_file()
    from huggingface_hub import try_to_load_from_cache

    repository, revision, file = _of_hub(release.place)
    names = [file] if file else ["config.json", "model_index.json"]
    return any(isinstance(try_to_load_from_cache(repository, n, _hub_cache(), revision), str) for n in names)


def _of_hub(text: str) -> tuple[str, str | None, str]:
    """Repository, revision and file ("" for a whole repository) of `hf://OWNER/NAME[@REVISION][/FILE]`."""
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?", text.rstrip("/"))
    if found is None:
        raise ValueError(f"{text} is no address of the hub: hf://OWNER/NAME, or hf://OWNER/NAME/FILE")
    return found[1], found[2], found[3] or ""


def _hub_cache() -> str | None:
    return os.environ.get("HF_HUB_CACHE")  # huggingface_hub reads it once, when it is imported


def _from_hub(text: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    repository, revision, file = _of_hub(text)
    settings = {"revision": revision, "cache_dir": _hub_cache(), "endpoint": os.environ.get("HF_ENDPOINT")}
    try:
        if not file:
            return _folder(repository, settings)
        before = try_to_load_from_cache(repository, file, _hub_cache(), revision)
        path = Path(hf_hub_download(repository, file, **settings))
    except GatedRepoError as error:
        raise FileNotFoundError(
            f"{text}: its owners ask for an agreement: accept it on the page of {repository}, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{text}: the hub has no repository {repository}, or it is private") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{text} is not in the hub's cache, and the hub cannot be reached (HF_HUB_OFFLINE, HF_ENDPOINT and the "
            "network decide): download it where there is one, and give its path"
        ) from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{text}: {repository} has no file {file}") from error
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(f"{text} cannot be downloaded: {error}") from error
    blob = path.resolve().name  # the cache names a large file by its SHA-256
    if not isinstance(before, str) and re.fullmatch("[0-9a-f]{64}", blob) and sha256(path) != blob:
        path.resolve().unlink()
        raise ValueError(f"{text} came damaged: its SHA-256 is not the hub's; it is deleted: start again")
    return path


def _folder(repository: str, settings: dict[str, Any]) -> Path:
    """A whole repository, less what is there a second time for other libraries or in an older format."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    left_out = list(_OTHER_FORMATS)
    if not HF_HUB_OFFLINE:
        listed: Any = snapshot_download(repository, **settings, dry_run=True)
        if any(each.filename.endswith(".safetensors") for each in listed):
            left_out += ["*.bin", "*.pt", "*.pth"]
    return Path(snapshot_download(repository, **settings, ignore_patterns=left_out))


def _place_of(url: str) -> Path:
    folder = Path(os.environ.get(CACHE, "~/.cache/tubelet/weights")).expanduser()
    name = re.sub(r"[^\w.-]", "_", Path(urlsplit(url).path).name) or "weights"
    return folder / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def _from_address(url: str, digest: str | None) -> Path:
    from filelock import FileLock

    place = _place_of(url)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):  # ranks of a machine: the first downloads
        if place.is_file():
            return place
        part = place.with_name(place.name + ".part")
        _download(url, part)
        if digest is not None and (found := sha256(part)) != digest:
            part.unlink()
            raise ValueError(f"{url} has the SHA-256 {found[:16]}..., its release states {digest[:16]}...: deleted")
        part.replace(place)
    return place


def _download(url: str, part: Path) -> None:
    """Download to `part`, from where an earlier download of the same version was cut."""
    tag = part.with_name(part.name + ".tag")  # the server's mark of the version of which `part` is the beginning
    most, failure = 0, None
    tries = 0
    while tries < _TRIES:
        have = part.stat().st_size if part.exists() and tag.exists() else 0
        begins = {"Range": f"bytes={have}-", "If-Range": tag.read_text()} if have else {}
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "tubelet", **begins})
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                have = have if answer.status == http.client.PARTIAL_CONTENT else 0
                mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                tag.write_text(mark) if mark else tag.unlink(missing_ok=True)
                length = answer.headers.get("Content-Length")
                with part.open("r+b" if have else "wb") as out:
                    out.seek(have)
                    while block := answer.read(_BLOCK):
                        out.write(block)
            if length is None or part.stat().st_size == have + int(length):
                tag.unlink(missing_ok=True)
                return
            failure = f"it was cut after {part.stat().st_size} bytes"
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                tag.unlink(missing_ok=True)  # what is here is no beginning of it
            elif error.code < 500:
                raise FileNotFoundError(f"{url} cannot be downloaded: the server answers {error.code}") from error
            failure = error
        except (OSError, http.client.HTTPException) as error:
            failure = error
        size = part.stat().st_size if part.exists() else 0
        tries = 0 if size > most else tries + 1
        most = max(most, size)
        time.sleep(0.1 * 2**tries)
    raise FileNotFoundError(f"{url} cannot be downloaded ({failure}); what came is kept, and the next start goes on")


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; OSError if it is not a regular file, which may never end."""
    if file.exists() and not file.is_file():
        raise OSError(f"{file} is not a regular file")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
