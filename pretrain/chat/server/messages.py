"""OpenAI's messages, checked: roles that take turns, texts, and places of media."""

import json
from dataclasses import dataclass
from typing import Any

from datamodules.storage.json_text import is_utf8, parse_json
from pretrain.chat.answerer import Writing
from pretrain.chat.server.limits import Refused, ServerLimits
from pretrain.chat.server.regions import Region, read_regions
from pretrain.chat.structured import grammar_of


@dataclass(frozen=True)
class Medium:
    """A video or a picture by its address, and regions of it that questions call `<obj1>`, ..."""

    address: str
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class Message:
    """A question with its media, and its answer; the last one has none."""

    question: str
    media: tuple[Medium, ...]
    answer: str | None = None


@dataclass(frozen=True)
class Completion:
    """What is asked for.

    usage: a stream ends with the numbers of tokens.
    """

    instruction: str
    messages: tuple[Message, ...]
    writing: Writing
    stream: bool
    usage: bool


_IGNORED = {"model", "user", "metadata", "store", "n", "frequency_penalty", "presence_penalty", "service_tier"}
_KNOWN = {
    *("messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed"),
    "response_format",
}


def read_completion(body: bytes, limits: ServerLimits) -> Completion:
    """The request in a body.

    Options that change nothing here are accepted only with the value that they have here.

    Raises:
        Refused: it is no such request, or above a limit.
    """
    try:
        given = parse_json(body)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise Refused(400, "the body is no JSON object")
    if unknown := sorted(given.keys() - _IGNORED - _KNOWN):
        raise Refused(400, f"{_short(unknown[0])} is not supported: leave it out")
    for name, value in (("n", 1), ("frequency_penalty", 0), ("presence_penalty", 0)):
        if given.get(name) not in (None, value):
            raise Refused(400, f"{name} other than {value} is not supported")
    instruction, messages = _messages(given.get("messages"), limits)
    most = given.get("max_completion_tokens") or given.get("max_tokens") or min(512, limits.most_tokens)
    options = given.get("stream_options") or {}
    try:
        writing = Writing(
            most=int(_number(most, "max_tokens", 1, limits.most_tokens)),
            temperature=_number(given.get("temperature") or 0, "temperature", 0, 2),
            top_p=_number(1 if given.get("top_p") is None else given["top_p"], "top_p", 0, 1),
            seed=int(_number(given.get("seed") or 0, "seed", -(2**63), 2**63 - 1)),
            schema=_schema(given.get("response_format")),
        )
    except ValueError as error:
        raise Refused(400, str(error)) from None
    stream = given.get("stream") or False
    if not isinstance(stream, bool) or not isinstance(options, dict):
        raise Refused(400, "stream is true or false, and stream_options an object")
    return Completion(instruction, messages, writing, stream, options.get("include_usage") is True)


def _messages(given: Any, limits: ServerLimits) -> tuple[str, tuple[Message, ...]]:
    if not isinstance(given, list) or not given:
        raise Refused(400, "messages is a list with one message or more")
    if len(given) > limits.messages:
        raise Refused(400, f"{len(given)} messages are more than {limits.messages}")
    instruction, found, characters, media = "", [], 0, 0
    for i, message in enumerate(given):
        if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
            raise Refused(400, f"message {i} has no role")
        text, places = _content(message.get("content"), i)
        characters, media = characters + len(text), media + len(places)
        if characters > limits.characters or media > limits.media:
            raise Refused(
                400, f"the messages have more than {limits.characters} characters or {limits.media} videos and pictures"
            )
        waits = bool(found) and found[-1].answer is None
        if role in ("system", "developer") and i == 0 and not places:
            instruction = text
        elif role == "user" and not waits:
            found.append(Message(text, places))
        elif role == "assistant" and waits and not places:
            found[-1] = Message(found[-1].question, found[-1].media, text)
        else:
            raise Refused(400, f"message {i} of {_short(role)}: after a system message, user and assistant take turns")
    if not found or found[-1].answer is not None:
        raise Refused(400, "the last message is the user's")
    if not found[-1].question.strip():
        raise Refused(400, "the last message has no text: ask something")
    return instruction, tuple(found)


def _content(content: Any, number: int) -> tuple[str, tuple[Medium, ...]]:
    """The text of a message, and its media."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise Refused(400, f"the content of message {number} is a text or a list of parts")
    texts, places = [], []
    for part in parts:
        regions: tuple[Region, ...] = ()
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            value = part.get("text")
        elif kind in ("image_url", "video_url"):
            value = part.get(kind)
            if isinstance(value, dict):
                regions = read_regions(value.get("regions") or [], f"message {number}")
                value = value.get("url")
        elif kind == "file":
            value = part.get("file")
            value = value.get("file_data") if isinstance(value, dict) else None
        else:
            raise Refused(400, f"a part of message {number} is no text, image_url, video_url or file")
        if not isinstance(value, str) or not is_utf8(value):
            raise Refused(400, f"a part of message {number} holds no text where its kind has one")
        if kind == "text":
            texts.append(value)
        else:
            places.append(Medium(value, regions))
    return "\n".join(texts), tuple(places)


def _schema(given: Any) -> str | None:
    """The JSON schema that an answer is to have."""
    if given is None or given == {"type": "text"}:
        return None
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "json_object":
        schema: Any = {"type": "object"}
    else:
        asked = given.get("json_schema") if kind == "json_schema" else None
        schema = asked.get("schema") if isinstance(asked, dict) else None
    if not isinstance(schema, dict):
        raise Refused(400, "response_format is text, json_object, or json_schema with a schema")
    text = json.dumps(schema)
    try:
        grammar_of(text)
    except (ImportError, ValueError) as error:
        raise Refused(400, f"response_format: {error}") from None
    return text


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refused(400, f"{name} is a number from {low:g} to {high:g}")
    return value


def _short(value: str) -> str:
    return repr(value[:40])
