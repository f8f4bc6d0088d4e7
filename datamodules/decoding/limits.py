"""The limits that files are held to before memory is allocated for what they claim to hold."""

from dataclasses import dataclass, fields

_OPTIONS = {"frame_pixels": "--max-pixels", "frames": "--max-frames", "packets": "--max-frames"}


@dataclass(frozen=True)
class Limits:
    """Upper bounds on what one file may cost; a recipe raises one by its name (`limits: {frame_pixels: 67108864}`).

    The defaults are above what is found in data sets of videos, and low enough that a file of a few kilobytes cannot
    exhaust a worker's memory.

    Args:
        frame_pixels: of a frame or a picture; 2^25 is 8192 x 4096. A decoder keeps up to 17 frames for reference.
        aspect_ratio: of the long to the short side; a view that scales the short side up makes the frame larger by it.
        clip_bytes: of the RGB frames of one request; 2^30 are 172 frames of 1080p.
        frames: of a video; 2^21 are 19 hours at 30 frames a second.
        packets: of a video's stream, including those of hidden frames; also of what an mp4's tables declare.
        streams: of a container that FFmpeg looks at, with a decoder each; it does not see further ones.
        picture_bytes: of an image file.
        sample_bytes: of a video in a shard, which is read whole.
        meta_bytes: of a sample's json in a shard.
        json_bytes: of an annotation file in json, which is read whole.
        list_bytes: of any other list or annotation file.
        index_bytes: of the `shards.csv` of a folder of shards, and of the index of one shard.
        tar_members: of a tar that is indexed.
    """

    frame_pixels: int = 2**25
    aspect_ratio: int = 32
    clip_bytes: int = 2**30
    frames: int = 2**21
    packets: int = 2**21
    streams: int = 64
    picture_bytes: int = 2**26
    sample_bytes: int = 2**30
    meta_bytes: int = 2**22
    json_bytes: int = 2**28
    list_bytes: int = 2**30
    index_bytes: int = 2**26
    tar_members: int = 2**18

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"the limit {field.name} must be 1 or more, not {getattr(self, field.name)}")

    def refusal(self, limit: str, value: float, what: str) -> str | None:
        """Why `value` of `what` is refused; None if it is within the limit of that name."""
        most = getattr(self, limit)
        if value <= most:
            return None
        shown = f"{value:.1f}" if isinstance(value, float) else value
        option = f", or by {_OPTIONS[limit]} of tools/prepare.py" if limit in _OPTIONS else ""
        return f"{what}: {shown} is above the limit {limit} of {most}; if it is right, raise it in the recipe{option}"
