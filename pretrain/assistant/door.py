"""The one door to language models: OpenAI's chat completions, as tools/serve.py and others serve them."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class NoAnswer(Exception):
    """The model behind the door did not answer; the message is a sentence for the user."""


class Door:
    """Asks a model.

    Args:
        address: such as http://127.0.0.1:8000/v1.
        key: that it wants; it is never shown, nor kept.
        model: its name there; None: the first one that the server has.
        sees: it takes pictures and films.
        seconds: to wait for an answer.

    Raises:
        ImportError: the package openai is not installed.
    """

    def __init__(
        self, address: str, key: str | None = None, model: str | None = None, sees: bool = True, seconds: float = 120.0
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError("a language model needs OpenAI's client: pip install -e '.[assistant]'") from error
        self.client = openai.OpenAI(base_url=address, api_key=key or "none", timeout=seconds, max_retries=1)
        self.address, self.named, self.sees = address, model, sees

    @property
    def model(self) -> str:
        """The model's name. NoAnswer: the server does not say."""
        if self.named is None:
            self.named = self._about().id
        return self.named

    @property
    def regions(self) -> bool:
        """Whether the model takes regions, which tools/serve.py says of it. NoAnswer: the server does not answer."""
        return getattr(self._about(), "regions", False) is True

    def _about(self) -> Any:
        """What the server says of the model, or of its first one."""
        import openai

        try:
            return next(each for each in self.client.models.list() if self.named in (None, each.id))
        except (openai.OpenAIError, StopIteration) as error:
            raise NoAnswer(f"The server at {self.address} names no model: {_reason(error)}.") from None

    def ask(
        self,
        question: str,
        instruction: str = "",
        pictures: Sequence[np.ndarray] = (),
        films: Sequence[Path] = (),
        regions: Sequence[dict[str, Any]] = (),
        earlier: Sequence[tuple[str, str]] = (),
        schema: dict[str, Any] | None = None,
        most: int = 512,
    ) -> str:
        """The answer to a question about pictures uint8 `[H, W, 3]` and mp4 files.

        Args:
            regions: of the last film, or without one of the first picture, which the question calls `<obj1>`, ...; see
                `pretrain.chat.server.regions`.
            earlier: questions and answers before it.
            schema: of JSON that the answer must be; it is told to the model in words too, as not every server knows it.
            most: new tokens.

        Raises:
            NoAnswer: the server cannot be reached, or refuses.
        """
        import openai

        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": picture_url(p)}} for p in pictures]
        parts += [{"type": "video_url", "video_url": {"url": film_url(film)}} for film in films]
        if regions:
            seen = parts[-1] if films else parts[0]
            seen[seen["type"]]["regions"] = list(regions)
        parts.append({"type": "text", "text": question})
        messages: list[Any] = [{"role": "system", "content": instruction}] if instruction else []
        for asked, answered in earlier:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        messages.append({"role": "user", "content": parts if len(parts) > 1 else question})
        more: dict[str, Any] = {}
        if schema is not None:
            more["response_format"] = {"type": "json_schema", "json_schema": {"name": "plan", "schema": schema}}
        model = self.model
        try:
            try:
                done = self.client.chat.completions.create(
                    model=model, messages=messages, max_tokens=most, temperature=0, **more
                )
            except openai.BadRequestError as error:
                if not more or "response_format" not in str(error):
                    raise
                done = self.client.chat.completions.create(
                    model=model, messages=messages, max_tokens=most, temperature=0
                )
        except openai.OpenAIError as error:
            raise NoAnswer(f"The language model at {self.address} did not answer: {_reason(error)}.") from None
        return done.choices[0].message.content or "" if done.choices else ""


def picture_url(pixels: np.ndarray) -> str:
    """A picture as a data: URL of PNG."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def film_url(path: Path) -> str:
    """An mp4 as a data: URL."""
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def read_object(text: str) -> dict[str, Any]:
    """The JSON object in a model's answer, with or without words or a fence around it. ValueError: there is none."""
    start = text.find("{")
    if start < 0:
        raise ValueError("there is no JSON object in the answer")
    try:
        found, _ = json.JSONDecoder().raw_decode(text[start:])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the answer is no JSON: {str(error)[:200]}") from None
    return found


def _reason(error: BaseException) -> str:
    """An error in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
