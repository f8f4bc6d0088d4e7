"""A conversation about videos and pictures in the terminal: `python tools/chat.py film.mp4 --model DIR`.

DIR is a run or a checkpoint of VideoChat, or an export of one for transformers. `--question` gives one answer and ends.
`--way text` describes the film in words with time stamps, by tools, for a language model without eyes (VideoChat-Text).
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser

_MOST = 256  # new tokens of an answer


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the conversation."""
    parser = Parser(prog="chat.py", description=__doc__)
    parser.add_argument("media", nargs="*", help="videos and pictures that the first question is about")
    parser.add_argument("--model", required=True, help="run or checkpoint of VideoChat (--way text: a language model)")
    parser.add_argument("--way", choices=("video", "text"), default="video", help="how the model gets to know a video")
    parser.add_argument(
        "--tool",
        action="append",
        default=[],
        metavar="NAME=CAPTIONER[@SECONDS]",
        help="--way text: describes so many seconds at a time, or the whole film: folder of an image captioner, run of "
        "Classify, or package.module:Class; may be given several times, such as caption=BLIP@1, action=RUN",
    )
    parser.add_argument("--subtitles", help="--way text: a .srt file of what is said")
    parser.add_argument("--question", action="append", help="ask this and end; may be given several times")
    parser.add_argument("--instruction", default="", help="a system prompt")
    parser.add_argument("--times", action="store_true", help="tell the model when the frames were taken")
    parser.add_argument("--frames", type=int, help="of a video (default: as in training)")
    parser.add_argument("--tiles", type=int, help="of a frame at most, for a model that sees tiles (default: 6)")
    parser.add_argument("--most", type=int, help="new tokens of an answer (default: 256, or half of a short context)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0, the default: the likeliest words")
    parser.add_argument("--seed", type=int, default=0, help="of the draws with a temperature")
    parser.add_argument("--device", default="cpu", help="(default %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    a = parser.parse_args(arguments)
    import torch

    from datamodules.decoding.reader import PyAV
    from models.chat.language_model import context_of
    from pretrain.chat.answerer import Writing
    from pretrain.chat.talk import Talk
    from pretrain.chat.terminal import HELP, answer, converse, show

    decoder = PyAV()

    def writing(llm: Any) -> Writing:
        most = min(_MOST, (context_of(llm) or 2 * _MOST) // 2) if a.most is None else a.most
        return Writing(most, a.temperature, seed=a.seed)

    if a.way == "text":
        from pretrain.chat.describe import load_tool, told
        from pretrain.chat.text_model import load_text_model

        text = told(a.media, decoder, [load_tool(each) for each in a.tool], a.subtitles)
        print(text)
        model = load_text_model(a.model, a.device, getattr(torch, a.dtype))
        talk = Talk(model, "\n\n".join(filter(None, (a.instruction, text))), writing=writing(model.llm))
    else:
        from pretrain.chat.load import load_assistant

        assistant = load_assistant(a.model, a.device, getattr(torch, a.dtype), a.frames, a.tiles)
        talk = Talk(assistant, a.instruction, a.times, writing(assistant.model.llm))
        for file in a.media:
            show(talk, file, decoder, sys.stdout)
    if a.question:
        for question in a.question:
            answer(talk, question, sys.stdout)
        return 0
    print(HELP)
    converse(talk, sys.stdin, decoder, prompt=lambda: print("> ", end="", flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
