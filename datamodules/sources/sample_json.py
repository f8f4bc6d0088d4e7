"""The caption and the class in the json of a sample in a shard; what is wrong with one costs that sample only."""

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.sources.lists import whole_number
from datamodules.storage.json_text import is_utf8, parse_json

_MOST_CLASSES = 2**31  # a class number is below
_OF_PREPARE = (b'"source"', b'"frames"', b'"seconds"', b'"start"')
_CLASS_NAME = 200  # characters of the name of a class, at most


def read_annotation(name: str, data: bytes, limits: Limits) -> tuple[str | list[str] | None, int | None]:
    """(caption or captions, class number) in a sample's json; None for what it does not give.

    `text` (or `caption`) is a string or a list of strings, `label` an integer from 0, or an integer written as text or
    as a float; null is as good as absent, and so is an empty text.

    Raises:
        DecodeError: it is no JSON, too long or too deeply nested, or no object; or a value is of another kind.
    """
    text, label = parse_annotation(name, data, limits)
    if isinstance(label, str):
        raise DecodeError(name, f"its label is not an integer: {_short(label)}")
    return text, label


def parse_annotation(name: str, data: bytes, limits: Limits) -> tuple[str | list[str] | None, int | str | None]:
    """As `read_annotation`; a label may also be the name of a class."""
    if not data:
        return None, None
    if refusal := limits.refusal("meta_bytes", len(data), "bytes of its json"):
        raise DecodeError(name, refusal)
    try:
        meta = parse_json(data)
    except ValueError as error:  # also for bytes that are not text
        raise DecodeError(name, f"its json cannot be read: {error}") from None
    if not isinstance(meta, dict):
        raise DecodeError(name, f"its json is not an object but a {type(meta).__name__}")
    text = meta.get("text", meta.get("caption"))
    return _text(name, text) or None, read_label(name, meta.get("label"))


def origin_of(data: bytes) -> str | None:
    """The name of the video that a sample was made of, in a json that `prepare` has written; None: another json.

    Of a part it ends with its seconds, as in `a.mp4#t=4,8`.
    """
    if not all(field in data for field in _OF_PREPARE):
        return None
    meta = parse_json(data)
    name, start, seconds = meta.get("name", meta.get("source")), meta.get("start"), meta.get("seconds")
    if not isinstance(name, str) or not name or not is_utf8(name):
        return None
    if "name" in meta or not isinstance(start, int | float) or not isinstance(seconds, int | float) or start <= 0:
        return name
    return f"{name}#t={start:.6g},{start + seconds:.6g}"


def cadence_of(data: bytes) -> float | None:
    """The frames per second that `prepare --fps` has stored at most, in the json that it has written; else None."""
    if b'"cadence"' not in data or not all(field in data for field in _OF_PREPARE):
        return None
    cadence = parse_json(data).get("cadence")
    return float(cadence) if isinstance(cadence, int | float) and cadence > 0 else None


def read_text(name: str, data: bytes, limits: Limits) -> str | None:
    """The caption in a text file of a sample; None if it is blank. DecodeError if it is too long or not UTF-8."""
    if refusal := limits.refusal("meta_bytes", len(data), "bytes of its text"):
        raise DecodeError(name, refusal)
    try:
        return data.decode("utf-8-sig").strip() or None
    except UnicodeDecodeError as error:
        raise DecodeError(name, f"its text is not UTF-8: {error.reason}") from None


def _text(name: str, given: object) -> str | list[str] | None:
    if given is None:
        return None
    captions = given if isinstance(given, list) else [given]
    if not captions:
        raise DecodeError(name, "its text is an empty list")
    for caption in captions:
        if not isinstance(caption, str):
            raise DecodeError(name, f"its text is not text: {_short(caption)}")
        if not is_utf8(caption):
            raise DecodeError(name, "its text holds half of a character (a lone surrogate)")
    return given  # pyrefly: ignore[bad-return]  (checked above)


def read_label(name: str, given: object) -> int | str | None:
    """A class number, or the name of a class; None if it is absent. DecodeError if it is of another kind."""
    if given is None or given == "":
        return None
    try:
        number = whole_number(given)
    except (TypeError, ValueError, OverflowError):  # OverflowError: infinity
        if isinstance(given, str) and len(given) <= _CLASS_NAME and not given.strip("+-.").isdigit():
            return given
        raise DecodeError(name, f"its label is not an integer: {_short(given)}") from None
    if not 0 <= number < _MOST_CLASSES:
        raise DecodeError(name, f"its label is {_short(given)}; classes are numbered from 0")
    return number


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, (list, dict)) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
