"""Answers a second of a chat model: a batch of questions at once against one by one, with the same answers.

The prompts are as long as MVBench's: a system prompt of 60 tokens twice, 96 visual tokens, and questions of 20 to 120
tokens with their options. What they share is chosen: the system prompt, as in every benchmark; a video of four
questions too, as in some; or nothing, which leaves the gain of the batch alone.
"""

import statistics
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from models.chat.language_model import language_model
from models.chat.qformer import QFormer
from models.chat.templates import Conversation, Turn, Vicuna
from models.chat.videochat import VideoChat
from models.vit import VideoViT
from pretrain.chat.answerer import Request, Writing
from pretrain.chat.assistant import Assistant
from pretrain.studies.speed.packing import VISUAL, timed

_SYSTEM, _QUESTION = 60, (20, 120)  # tokens
_QUESTIONS_OF_VIDEO = 4
Shared = Literal["nothing", "system", "video"]


@dataclass
class AnswersReport:
    """Seconds are medians over the rounds, for all questions; `equal` of them have the same answer in a batch."""

    language_model: str
    questions: int
    batch: int
    tokens: int
    rounds: int
    shared: Shared
    equal: int
    seconds: dict[str, float]

    @property
    def ratio(self) -> float:
        """Answers a second of batches over those of one by one."""
        single, together = self.seconds.values()
        return single / together

    def json(self) -> dict[str, Any]:
        return {"ratio": self.ratio, **vars(self)}

    def markdown(self) -> str:
        lines = [f"## answers of {self.tokens} tokens by {self.language_model}, {self.rounds} rounds", ""]
        lines += [f"shared by the prompts: {self.shared}", ""]
        lines += ["| | s | answers/s |", "| --- | ---: | ---: |"]
        lines += [f"| {name} | {s:.2f} | {self.questions / s:.3f} |" for name, s in self.seconds.items()]
        lines += ["", f"{self.ratio:.2f}x; {self.equal} of {self.questions} answers are the same"]
        return "\n".join(lines)


def words(vocabulary: int) -> Any:
    """A tokenizer whose tokens are numbered words."""
    from transformers import PreTrainedTokenizerFast

    table = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3} | {f"w{i}": i for i in range(4, vocabulary)}
    made = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def build(width: int = 768, layers: int = 12, vocabulary: int = 32_000, frames: int = 8) -> Assistant:
    """A chat model of random weights, whose answers depend on what it is shown."""
    torch.manual_seed(0)
    config = {
        **{
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": width * 43 // 16,
        },
        **{"num_hidden_layers": layers, "num_attention_heads": max(1, width // 64), "max_position_embeddings": 2048},
    }
    llm = language_model(config)
    for parameter in llm.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=2 * width**-0.5)
    encoder = VideoViT(128, 4, 2, 512, patch=16, tubelet=1, frames=frames, size=64, norm=False)
    former = QFormer(128, 2, 2, 512, 128, dropout=0.0, text=False)
    model = VideoChat(encoder, former, llm, VISUAL - 64, 64)
    assert model.extra_queries is not None
    nn.init.normal_(model.extra_queries, std=0.02)
    template: Any = Vicuna()
    return Assistant(model, words(vocabulary), template, frames=frames)


def requests_of(assistant: Assistant, count: int, shared: Shared = "system") -> list[Request]:
    """Questions of lengths that vary as those of MVBench; see `Shared`."""
    generator = torch.Generator().manual_seed(1)

    def text(length: int) -> str:
        return assistant.tokenizer.decode(torch.randint(100, 1000, (length,), generator=generator).tolist())

    def clip() -> Tensor:
        shape = (3, assistant.frames, assistant.size, assistant.size)
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)

    systems = [text(_SYSTEM) for _ in range(count if shared == "nothing" else 1)]
    clips = [clip() for _ in range(-(-count // _QUESTIONS_OF_VIDEO) if shared == "video" else count)]
    made = []
    for i in range(count):
        system, seen = systems[i % len(systems)], clips[i % len(clips)]
        length = int(torch.randint(*_QUESTION, (1,), generator=generator))
        turn = Turn(f"{system} {text(length)}", media=("video",))
        made.append(Request(Conversation((turn,), system), (seen,), system))
    return made


def measure(
    assistant: Assistant, batch: int = 8, tokens: int = 32, rounds: int = 3, shared: Shared = "system"
) -> AnswersReport:
    """Times greedy answers of up to so many new tokens in turns; on a CPU the seconds are the process's."""
    requests, writing, found = requests_of(assistant, batch, shared), Writing(most=tokens), {}

    def one_by_one() -> None:
        found["one by one"] = [assistant.answer([request], writing)[0] for request in requests]

    def together() -> None:
        found["a batch"] = assistant.answer(requests, writing)

    times = timed({"one by one": one_by_one, "a batch": together}, rounds, assistant.device.type)
    config: Any = assistant.model.llm.config
    size = f"{config.model_type}, width {config.hidden_size}, {config.num_hidden_layers} layers"
    equal = sum(x == y for x, y in zip(*found.values(), strict=True))
    seconds = {name: statistics.median(each) for name, each in times.items()}
    return AnswersReport(size, batch, batch, tokens, rounds, shared, equal, seconds)
