"""How prepared videos are encoded: the codecs, the settings, and the recommended ones."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Codec:
    """An FFmpeg encoder: its name, default CRF and options."""

    encoder: str
    crf: int
    options: dict[str, str]


CODECS = {
    "h264": Codec("libx264", 23, {"preset": "medium"}),
    "hevc": Codec("libx265", 26, {"preset": "fast", "x265-params": "log-level=error:pools=none:frame-threads=1"}),
    "mpeg4": Codec("mpeg4", 4, {"flags": "+mv4", "mbd": "rd", "trellis": "2"}),
    "av1": Codec("libsvtav1", 35, {"preset": "8", "svtav1-params": "lp=1"}),
}

_LAMBDA = 118  # FFmpeg's Lagrange factor of the quantiser 1


@dataclass(frozen=True)
class Encoding:
    """How videos are processed. By default each is only decoded, as a check, and its bytes are kept.

    Args:
        short_side: target size of the short side in pixels, for videos where it is larger; None keeps the size.
        clip_seconds: approximate length of clips: a video is cut into equal parts without a remainder. None keeps it
            whole.
        crf: the encoder's quality, lower is better; None for the default in `CODECS`. Of mpeg4 the quantiser, 1 to 31.
        keyframes: frames from one keyframe to the next; fewer make random access faster and files larger.
        fps: frames per second that are stored, at most: those of the cadence of training, which then takes every frame
            (stride 1). None stores all.
        encode: re-encode every video, also one that needs neither resizing nor cutting.
        codec: a name in `CODECS`.
        b_frames: B-frames between two other frames, always exactly so many and never references: `PyAV` skips
            unneeded ones, so that at stride 4 three of them avoid most of the decoding. 0 for none. With some, the
            same frames may give other bytes in another process: x264's macroblock tree reads memory that it has not
            written, and without the tree files are up to twice as large.
        deinterlace: make whole frames of interlaced videos, which are encoded again for it.
        tone_map: map the brightness and colours of HDR videos to BT.709; they are encoded again for it.
        fast: turn off H.264 features that are slow to decode (CABAC, the loop filter, weighted prediction).
    """

    short_side: int | None = None
    clip_seconds: float | None = None
    crf: int | None = None
    keyframes: int = 48
    fps: float | None = None
    encode: bool = False
    codec: str = "h264"
    b_frames: int = 0
    fast: bool = False
    deinterlace: bool = False
    tone_map: bool = False

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ValueError(f"no codec {self.codec!r}; there are {', '.join(CODECS)}")
        if self.fast and self.codec != "h264":
            raise ValueError(f"fast decoding is an option of h264, not of {self.codec}")
        if min(self.keyframes, self.short_side or 2, self.clip_seconds or 1) <= 0 or self.b_frames < 0:
            raise ValueError(f"sizes, lengths and numbers of frames must be positive: {self}")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is a number of frames a second above 0, not {self.fps:g}")

    def options(self) -> tuple[str, dict[str, str]]:
        """The encoder's name in FFmpeg, and its options."""
        codec = CODECS[self.codec]
        options = {**codec.options, "crf": str(codec.crf if self.crf is None else self.crf), "g": str(self.keyframes)}
        if self.codec == "h264":
            options |= {"bf": str(self.b_frames)} | ({"tune": "fastdecode"} if self.fast else {})
            if self.b_frames:  # a fixed number, and none is a reference
                options["x264-params"] = "b-adapt=0:b-pyramid=none"
        elif self.codec == "mpeg4":
            factor = str(_LAMBDA * int(options.pop("crf")))
            options |= {"lmin": factor, "lmax": factor, "bf": str(self.b_frames)}  # one quantiser for all
        elif self.codec == "hevc":
            options["x265-params"] += f":bframes={self.b_frames}:b-adapt=0:b-pyramid=0:keyint={self.keyframes}"
        return codec.encoder, options


# Five times the clips per second of original web videos at the same size in bytes, by `prepare.py compare`.
RECOMMENDED = Encoding(short_side=256, crf=21, keyframes=24, encode=True, b_frames=3, fast=True)
# With `fps`, where every frame is taken and B-frames save nothing. MPEG-4 decodes in half the time of H.264.
RECOMMENDED_AT_CADENCE = Encoding(short_side=256, crf=4, keyframes=8, encode=True, codec="mpeg4")
