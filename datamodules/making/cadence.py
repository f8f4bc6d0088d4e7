"""Which frames of a clip are stored where training takes only so many a second."""

from datamodules.making.frames import ROUNDING


class Cadence:
    """Takes at most `fps` frames a second: of each period the first one, which keeps its own time.

    Args:
        fps: frames per second. A video of fewer keeps all of its frames.
    """

    def __init__(self, fps: float) -> None:
        self.fps, self.taken = fps, 0

    def takes(self, seconds: float) -> bool:
        """Whether the next frame is taken, which is shown so many seconds after the first one of the clip."""
        period = int((seconds + ROUNDING) * self.fps)
        if period < self.taken:
            return False
        self.taken = period + 1
        return True
