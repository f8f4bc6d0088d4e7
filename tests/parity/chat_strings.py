"""Conversations read back from the strings that VideoChat2's data sets make of them."""

import re

from models.chat.templates import Conversation, Turn


def parsed(text: str, family: str) -> Conversation:
    """A conversation of the string that the official data set makes of it."""
    medium = re.search(r"<(Video|Image)></\1>", text)
    media = (medium.group(1).lower(),) if medium else ()
    if family == "llama":
        first, *rest = re.split(r" ?###Assistant: ", text)
        questions, answers = [first], []
        for piece in rest:
            answer, _, following = piece.partition(" ###")
            answers.append(answer)
            questions.append(f"###{following}")
        instruction, _, first = questions[0].partition("###Human: ")
        block, *question = first.split(" ###Human: ") if media else ("", first)
        questions[0] = question[0] if question else ""
        questions = [questions[0], *(q.removeprefix("###Human: ") for q in questions[1:-1])]
    elif family == "mistral":
        instruction, _, first = text.partition("[INST] ")
        block, _, first = first.partition(" [/INST] ") if media else ("", "", f"[INST] {first}")
        pieces = re.findall(r"(?:\[INST\] (.*?) \[/INST\] )?(.*?) </s> ?", first, re.DOTALL)
        questions, answers = zip(*pieces, strict=True)
    else:
        found = re.match(r"(?:<\|system\|>\n(.*?)<\|end\|>\n)?(.*)$", text, re.DOTALL)
        instruction, body = found.group(1) or "", found.group(2)
        pieces = re.findall(r"<\|user\|>\n(.*?)<\|end\|>\n<\|assistant\|>\n(.*?)<\|end\|>", body, re.DOTALL)
        questions, answers = map(list, zip(*pieces, strict=True))
        block, _, questions[0] = questions[0].partition("\n") if media else ("", "", questions[0])
    message = block[len(medium.group(0)) :] if medium else ""
    turns = [
        Turn(q, a, media if i == 0 else (), message if i == 0 else "")
        for i, (q, a) in enumerate(zip(questions, answers, strict=True))
    ]
    return Conversation(tuple(turns), instruction.strip())
