"""What a request may cost, and the error that a client gets."""

from dataclasses import dataclass, field, fields

from datamodules.decoding.limits import Limits


class Refused(Exception):
    """A request that is not answered: an HTTP status, and one sentence for the client."""

    def __init__(self, status: int, message: str, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class ServerLimits:
    """What a request may cost.

    Args:
        body_bytes: of a request.
        messages: in a conversation.
        characters: of all its texts.
        media: videos and pictures in it.
        media_bytes: of one, however it comes.
        video_seconds: that a video may last.
        most_tokens: of an answer.
        fetch_seconds: to get a medium by its address.
        decode_seconds: to decode one.
        answer_seconds: to write an answer; what is written by then is sent.
        waiting: requests that wait; further ones are turned away.
        files: what a video's file may hold.
    """

    body_bytes: int = 2**26
    messages: int = 64
    characters: int = 2**15
    media: int = 8
    media_bytes: int = 2**25
    video_seconds: float = 600.0
    most_tokens: int = 1024
    fetch_seconds: float = 20.0
    decode_seconds: float = 60.0
    answer_seconds: float = 120.0
    waiting: int = 8
    files: Limits = field(default_factory=lambda: Limits(frame_pixels=2**23, clip_bytes=2**29, frames=2**17))

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name != "files" and not getattr(self, each.name) > 0:
                raise ValueError(f"the limit {each.name} must be above 0, not {getattr(self, each.name)}")
