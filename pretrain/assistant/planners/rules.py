"""The planner by rules: the first verb of a wish or the words of a question choose the tool, the same ones always.

A sentence that only mentions a verb ("who removed the hat?") is a question, not a wish.
"""

import re
from dataclasses import dataclass

from pretrain.assistant.appearance import COLOURS, FORMS
from pretrain.assistant.planners.plan import Plan, Situation, Step

_POLITE = re.compile(
    r"^(?:(?:please|now|then|ok|okay|and|hey)[, ]+|(?:can|could|would|will) you (?:please )?"
    r"|i(?:'d| would)? (?:want|like) (?:you )?to )+"
)
_ASKS = re.compile(
    r"^(?:what|which|who|whose|whom|where|when|why|how|is|are|was|were|does|do|did|has|have|had|will|would|can|could)\b"
)
_NUMBER = r"(\d+:\d{1,2}(?:\.\d+)?|\d+(?:\.\d+)?)"
_SPAN = re.compile(rf"\b{_NUMBER}\s*(?:s|sec|seconds?)?\s*(?:to|until|till|and|-)\s*{_NUMBER}")
_FILM = r"(?:the |this |my |whole |entire )*(?:film|video|clip|movie|picture|scene)"
_WAY = re.compile(
    r"\b(?:mov\w+|go(?:es|ing)?|direction|way|head\w*|fast|speed|pass\w*|leave\w*|return\w*|out of sight|appear\w*"
    r"|do(?:es)? \w+ do|happens to)\b"
)
_LOOKS = re.compile(r"\b(?:colou?r|shape|form|look\w*|big|large|small|size|what is (?:it|this|that|obj\d+))\b")
_READS = re.compile(r"\b(?:read|text|written|letters|spell\w*)\b|\bwhat do(?:es)? .*\bsay\b")
_ACTS = re.compile(r"\b(?:action|activity|happening|going on|sport)\b")
POINT = "Point at what is meant first: click it, draw a box around it, or name its colour and form."


@dataclass(frozen=True)
class _Target:
    """What is meant: ids of objects, or words that tell of one that is to be found first; neither if nothing is."""

    names: tuple[str, ...]
    words: str = ""


class RulePlanner:
    """See the file's first line."""

    name = "rules"

    def plan(self, question: str, situation: Situation) -> Plan:
        """The plan of a question; without one that suits, a reply that says what is missing."""
        text = " ".join(question.lower().split())
        wish = _POLITE.sub("", text)
        target = _target(text, situation)
        made = None if _ASKS.match(wish) else _wish(wish, target, situation)
        return made or _question(question, text, target, situation)


def _wish(wish: str, target: _Target, s: Situation) -> Plan | None:
    """The plan of a sentence that begins with a verb that a tool does; None if it does not."""
    verb, _, rest = wish.rstrip(" .!").partition(" ")
    about_film = re.match(rf"{_FILM}\b", rest) is not None
    if verb in ("generate", "create") or (verb == "make" and re.match(r"(?:me )?a (?:film|video|clip|movie)\b", rest)):
        prompt = re.sub(r"^(?:me )?(?:an? )?(?:(?:film|video|clip|movie) )?(?:of |showing |with )?", "", rest)
        return Plan((Step("generate_film", {"prompt": prompt}),)) if prompt else None
    own = re.search(r"\b(?:my|own) (?:videos|films|clips)\b", rest) is not None
    if verb == "search" or (verb in ("find", "look") and own):
        words = re.sub(r"\b(?:for|in|among|my|own|videos?|films?|clips?|of|with|the)\b", " ", rest)
        return Plan((Step("search_videos", {"words": " ".join(words.split()) or rest}),)) if rest else None
    if verb in ("crop", "trim") or (verb == "cut" and _SPAN.search(rest)):
        return _crop(rest)
    if verb in ("read", "transcribe"):
        return Plan((Step("read_text", {"object": target.names[0]} if target.names else {}),))
    if verb in ("recognise", "recognize", "classify"):
        return Plan((Step("recognise_action"),))
    if verb in ("replace", "turn") and (to := re.search(r"\b(?:with|by|into) (.+)$", rest)):
        return _on(_target(rest[: to.start()], s), s, "replace", {"prompt": to[1]})
    if verb in ("edit", "change", "restyle", "make") and about_film:
        prompt = re.sub(rf"^{_FILM}\b ?(?:so that |to |into |look like )?", "", rest)
        return Plan((Step("edit", {"prompt": prompt or rest}),))
    if verb in ("remove", "erase", "delete"):
        return _on(target, s, "remove")
    if verb in ("cut", "extract", "isolate"):
        return _on(target, s, "cut_out")
    if verb in ("track", "follow"):
        names = target.names or (() if target.words else tuple(s.objects))
        return Plan((Step("track", {"objects": list(names)}),)) if names else _on(target, s, "track")
    if verb in ("segment", "mark", "select", "find", "point"):
        return Plan((Step("find", {"words": rest[:200], "frame": s.shown}),)) if target.words else Plan(reply=POINT)
    if verb == "describe":
        film = not target.names and not target.words
        return Plan((Step("describe_film"),)) if film else _on(target, s, "describe_region", tracked=False)
    return None


def _question(question: str, text: str, target: _Target, s: Situation) -> Plan:
    names = list(target.names)
    if _READS.search(text):
        return Plan((Step("read_text", {"object": names[0]} if names else {}),))
    if (names or target.words) and _WAY.search(text):
        other = re.search(r"\bafter\b.*\bpass\w*\b(.*)", text)
        after = [name for name in _named(other[1], s) if name != names[0]] if other is not None and names else []
        return _on(target, s, "movement", {"after": after[0]} if after else {}, also=tuple(after[:1]))
    if (names or target.words) and _LOOKS.search(text):
        return _on(target, s, "describe_region", tracked=False)
    if _ACTS.search(text) and not s.tools["recognise_action"].missing:
        return Plan((Step("recognise_action"),))
    if s.tools["answer_question"].missing and not names and (_WAY.search(text) or _LOOKS.search(text)):
        return Plan(reply=POINT)
    unseen = [name for name in names if name not in s.tracked] if s.film is not None and s.film.frames > 1 else []
    first = [Step("track", {"objects": unseen})] if unseen and not s.tools["answer_question"].missing else []
    return Plan((*first, Step("answer_question", {"question": question, "objects": names})))


def _target(text: str, s: Situation) -> _Target:
    """What a text means: the objects that it names, else those that are chosen, else a colour or a form in it."""
    if names := _named(text, s) or s.chosen:
        return _Target(tuple(names))
    told = set(re.findall(r"[a-z]+", text.replace("gray", "grey"))) & {*COLOURS, *FORMS}
    return _Target((), text[:200] if told else "")


def _named(text: str, s: Situation) -> list[str]:
    """The objects that a text names by id or name, in its order."""
    places = {}
    for name, each in s.objects.items():
        words = "|".join(re.escape(word) for word in {name, each.name.lower()})
        if (found := re.search(rf"(?<!\w)(?:{words})(?!\w)", text)) is not None:
            places[name] = found.start()
    return sorted(places, key=lambda name: places[name])


def _on(
    target: _Target,
    s: Situation,
    tool: str,
    more: dict[str, str] | None = None,
    tracked: bool = True,
    also: tuple[str, ...] = (),
) -> Plan:
    """A step on an object, after finding it by words and tracking it where that is needed."""
    if not target.names and not target.words:
        return Plan(reply=POINT)
    steps = [] if target.names else [Step("find", {"words": target.words, "frame": s.shown})]
    subject = target.names[0] if target.names else "@1"
    unseen = [name for name in (subject, *also) if name not in s.tracked]
    if unseen and tracked and s.film is not None and s.film.frames > 1:
        steps.append(Step("track", {"objects": unseen}))
    if tool != "track":
        several = tool == "movement"
        steps.append(
            Step(tool, {"objects" if several else "object": [subject] if several else subject, **(more or {})})
        )
    return Plan(tuple(steps))


def _crop(wish: str) -> Plan:
    span = _SPAN.search(wish)
    if span is None:
        return Plan(reply="Say from which second to which one, as in: crop from 1.5 to 4 s.")
    start, end = (_seconds(each) for each in span.groups())
    if end <= start:
        return Plan(reply=f"The end, {end:g} s, is not after the start, {start:g} s.")
    return Plan((Step("crop_film", {"start": start, "end": end}),))


def _seconds(text: str) -> float:
    minutes, colon, seconds = text.rpartition(":")
    return float(seconds) + (60 * float(minutes) if colon else 0.0)
