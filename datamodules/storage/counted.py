"""Numbers for messages: with their nouns (1 video, 2 videos), and times as a player shows them (1:02:03)."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun; the plural has an s unless it is given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def clock(seconds: float) -> str:
    """Seconds as a player shows them: 0:07, 1:02:03; with a tenth where there is one (0:07.5)."""
    tenths = round(10 * seconds)
    hours, rest = divmod(tenths, 36000)
    minutes, rest = divmod(rest, 600)
    text = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{text}:{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
