"""Open answers scored by a judge, a language model that the user names, as Video-ChatGPT's evaluation does.

A judge says whether an answer agrees with the right one, and how well from 0 to 5. Judges differ: scores of two judges
are not comparable, and the report names the judge.
"""

import json
import re
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.storage.append_lines import AppendedLines
from datamodules.storage.json_text import parse_json
from models.chat.templates import Conversation, Turn
from pretrain.chat.answerer import Answerer, Request, Writing
from pretrain.metrics.bootstrap import estimate_mean
from pretrain.questions.answers import Answer
from pretrain.questions.scoring import Count

_MOST = 128  # tokens of a verdict
PROMPT = (
    "Compare an answer to a question about a video with the right answer. The meaning counts, not the wording.\n"
    "Question: {asked}\nRight answer: {answer}\nAnswer to judge: {reply}\n"
    'Write one line of JSON: {{"pred": "yes" or "no", whether they agree, "score": a whole number from 0 (wrong) to 5 '
    '(the same)}}, such as {{"pred": "no", "score": 1}}.'
)


@dataclass(frozen=True)
class Verdict:
    """What a judge said of an answer.

    right, score: None: its words could not be understood.
    """

    question: str
    model: str
    protocol: str
    judge: str
    right: bool | None
    score: int | None
    words: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.question, self.model, self.protocol, self.judge


class Judge(ABC):
    """A language model that judges; `name` changes with the model."""

    name: str

    @abstractmethod
    def __call__(self, prompt: str) -> str:
        """What it writes."""


class ModelJudge(Judge):
    """A model on this machine."""

    def __init__(self, model: Answerer) -> None:
        self.model, self.name = model, model.identity()

    def __call__(self, prompt: str) -> str:
        return self.model.answer([Request(Conversation((Turn(prompt),)))], Writing(_MOST))[0]


class ServedJudge(Judge):
    """A model behind OpenAI's chat completions.

    Args:
        url: up to and with `/v1`.
        model: that the server knows.
        key: API key.
        seconds: to wait for an answer.
    """

    def __init__(self, url: str, model: str, key: str | None = None, seconds: float = 120.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"a judge's address begins with http:// or https://, not {url!r}")
        self.url, self.name, self.key, self.seconds = url.rstrip("/"), model, key, seconds

    def __call__(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.name, "messages": messages, "temperature": 0, "max_tokens": _MOST}
        head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), head)
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as response:
                found: Any = parse_json(response.read(2**20))
            return str(found["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            raise OSError(f"the judge at {self.url} answered {error.code}: {error.read(300)!r}") from None
        except urllib.error.URLError as error:
            raise OSError(f"the judge at {self.url} cannot be reached: {error.reason}") from None
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise OSError(f"the judge at {self.url} sent no chat completion ({error!r})") from None


def read_verdict(words: str) -> tuple[bool | None, int | None]:
    """Whether it agrees, and the score; None for what is not there."""
    agrees = re.search(r"[\"']?pred[\"']?\s*:\s*[\"']?(yes|no)\b", words, re.IGNORECASE)
    score = re.search(r"[\"']?score[\"']?\s*:\s*[\"']?([0-5])(?![0-9])", words, re.IGNORECASE)
    return agrees and agrees.group(1).lower() == "yes", score and int(score.group(1))


def judge_answers(answers: Iterable[Answer], judge: Judge, file: Path) -> list[Verdict]:
    """Verdicts of all answers; those that are in the file already are not asked for again."""
    lines = AppendedLines(file)
    known = {verdict.key: verdict for verdict in lines.read(lambda row: Verdict(**row))}
    found = []
    for answer in answers:
        key = answer.question, answer.model, answer.protocol, judge.name
        if key not in known:
            words = judge(PROMPT.format(asked=answer.asked, answer=answer.answer, reply=answer.reply))
            known[key] = Verdict(*key, *read_verdict(words), words)
            lines.add(asdict(known[key]))
        found.append(known[key])
    return found


def table_of_verdicts(verdicts: Iterable[Verdict], judge: str) -> str:
    """Share of right answers with Wilson's interval, and the mean score with a bootstrap one."""
    rows = list(verdicts)
    clear = [verdict for verdict in rows if verdict.right is not None and verdict.score is not None]
    lines = [f"Judge: {judge}. {len(clear)} of {len(rows)} verdicts could be understood; the others are left out."]
    if clear:
        own = Count(sum(bool(verdict.right) for verdict in clear), len(clear))
        low, high = own.interval
        mean = estimate_mean(torch.tensor([float(verdict.score or 0) for verdict in clear]))
        lines += ["", "| answers | right, % | 95 % | score, 0 to 5 | 95 % |", "|---:|---:|---:|---:|---:|"]
        spread = "" if mean.low != mean.low else f"{mean.low:.2f} to {mean.high:.2f}"
        shares = f"{100 * own.share:.1f} | {100 * low:.1f} to {100 * high:.1f}"
        lines.append(f"| {len(clear)} | {shares} | {mean.value:.2f} | {spread} |")
    return "\n".join(lines)
