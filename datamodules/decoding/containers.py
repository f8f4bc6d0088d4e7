"""Opens a video's container: only kinds that hold their own data, and only within the limits."""

import io

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.endings import CONTAINERS
from datamodules.decoding.limits import Limits
from datamodules.decoding.mp4_tables import declared_samples

_READ = "mp4, mov, mkv, webm, avi, ts, mpg, flv, ogv, wmv, 3gp, gif and raw streams"
# A file that begins like this is a list of other files, whatever else a decoder takes it for.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"<?xml", b"<MPD", b"\xef\xbb\xbf")
DAMAGE = (av.FFmpegError, OSError, IndexError)  # PyAV raises IndexError if a damaged ts gains streams midway
# FFmpeg counts the pixels of its buffers, whose rows are rounded up; `_video_stream` checks the frame itself.
_SLACK = 2
_REPEATS = 4  # how often an edit list may show the same samples


def open_container(content: str | bytes, name: str, limits: Limits) -> tuple[InputContainer, VideoStream]:
    """A file's container and its video stream, which decodes in one thread.

    Args:
        content: the path of a regular file, or its bytes.
        name: the name in error messages.
        limits: see `Limits`.

    Raises:
        DecodeError: the file is of another kind, damaged, without a video stream, or above a limit.
    """
    _check_head(content, name, limits)
    # The prefix keeps a path with a colon from being taken for a URL.
    source = f"file:{content}" if isinstance(content, str) else io.BytesIO(content)
    known = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file", "max_streams": str(limits.streams)}
    bound = {"max_pixels": str(_SLACK * limits.frame_pixels)}  # also for frames decoded to find the properties
    try:
        # A title in an odd encoding spoils no video.
        container = av.open(source, "r", metadata_errors="replace", container_options=known, options=bound)
    except av.ArgumentError:  # FFmpeg's answer to a kind that is not listed
        raise DecodeError(name, f"not a video in a container that is read ({_READ})") from None
    except (*DAMAGE, MemoryError) as error:
        refused = DecodeError(name, f"no video that FFmpeg can open ({getattr(error, 'strerror', None) or error})")
        refused.errno = getattr(error, "errno", None)
        raise refused from None
    try:
        return container, _video_stream(container, name, limits)
    except DAMAGE as error:
        container.close()
        raise DecodeError(name, error) from None
    except DecodeError:
        container.close()
        raise


def check_container(content: str | bytes, name: str, limits: Limits) -> tuple[int, int]:
    """Opens and closes a file, for decoders that cannot be limited; returns (height, width) of its frames."""
    container, track = open_container(content, name, limits)
    with container:
        return track.codec_context.height, track.codec_context.width


def _check_head(content: str | bytes, name: str, limits: Limits) -> None:
    """What must be known before FFmpeg reads the file."""
    try:
        if isinstance(content, str):
            with open(content, "rb") as file:
                head = file.read(16)
        else:
            head = content[:16]
        samples = declared_samples(content)
    except OSError as error:
        raise DecodeError(name, error) from None
    if head.lstrip().startswith(_PLAYLISTS):
        raise DecodeError(name, "it is a text that refers to other files or addresses, not a video")
    if samples is None:
        raise DecodeError(name, "its tables are compressed (cmov); convert it: ffmpeg -i OLD -c copy NEW.mp4")
    if refusal := limits.refusal("packets", samples // _REPEATS, "a quarter of the samples that its tables declare"):
        raise DecodeError(name, refusal)


def _video_stream(container: InputContainer, name: str, limits: Limits) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise DecodeError(name, "it holds no video stream")
    context = streams[0].codec_context
    if context is None:
        raise DecodeError(name, "there is no decoder for its video")
    if not context.width * context.height:  # FFmpeg also hides a size that is above its limit
        reason = f"the size of its frames is unknown, or far above the limit frame_pixels of {limits.frame_pixels}"
        raise DecodeError(name, reason)
    if refusal := limits.refusal("frame_pixels", context.width * context.height, "pixels of a frame"):
        raise DecodeError(name, refusal)
    context.thread_count, context.thread_type = 1, "NONE"
    context.options = {"max_pixels": str(_SLACK * limits.frame_pixels)}  # a stream may change its size midway
    return streams[0]
