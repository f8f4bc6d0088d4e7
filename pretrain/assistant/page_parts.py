"""What the page shows of a session besides the player: the conversation, the artefacts, and what the page may read."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from pretrain.assistant.artefacts import Artefact, Session
from pretrain.assistant.calls import Call, Turn
from pretrain.assistant.film_choice import FilmChoice
from pretrain.assistant.playback import TOOL as PLAYBACK

# What a session's files are sent as; others are not sent.
TYPES = {
    **{".png": "image/png", ".mp4": "video/mp4", ".json": "application/json", ".csv": "text/csv"},
    **{".txt": "text/plain", ".zip": "application/zip"},
}


def conversation(base: str, session: Session, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Messages of gradio's Chatbot: each question, the tools that ran for it, and the answer with what they made.

    Args:
        base: address of the session.
    """
    messages: list[dict[str, Any]] = []
    for turn in turns:
        pointed = f"  \n*pointing at {', '.join(turn.objects)} in frame {turn.frame}*" if turn.objects else ""
        messages.append({"role": "user", "content": _plain(turn.question) + pointed})
        for call in turn.answer.calls:  # the page folds these up below their titles
            about = {"title": _plain(title(call, session)), "status": "done"}
            messages.append({"role": "assistant", "content": _plain(call.said), "metadata": about})
        notes = "".join(f"  \n*{_plain(note)}*" for note in turn.notes)
        made = [each for call in turn.answer.calls for each in call.made]
        answer = "\n\n".join((_plain(turn.answer.text) + notes, *_shown(base, session, made)))
        messages.append({"role": "assistant", "content": answer})
    return messages


def title(call: Call, session: Session) -> str:
    """A tool, what it ran on, and what it made, in a line: `cut_out: object obj1 (track1), frame 3 → picture1`."""
    tracks = {each.object_id: each.id for each in session.all() if each.kind == "track" and each.object_id}
    given = ", ".join(
        f"{name} {_short(value, tracks)}" for name, value in call.arguments.items() if value not in (None, [])
    )
    made = f" → {', '.join(call.made)}" if call.made else ""
    return f"{call.tool}: {given}{made}" + (" (failed)" if call.failed else "")


def artefact_list(base: str, session: Session) -> str:
    """A table of a session's artefacts as HTML: what each is, what made it, of what; pictures are shown."""
    rows = []
    for each in reversed(session.all()):
        if each.tool == PLAYBACK:
            continue
        link = ""
        if each.path.suffix in TYPES and each.path.parent == session.folder:
            link = f'<a href="{base}/artefact/{each.id}?save=true" download>save</a>'
        about = escape(each.about) + (f" ({escape(each.object_id)})" if each.object_id else "")
        cells = (f"<b>{escape(each.id)}</b>", f"{escape(each.tool)} {escape(', '.join(each.parents))}", about, link)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    if not rows:
        return '<p class="tb-none">Nothing was loaded or made yet.</p>'
    head = "<tr><th>artefact</th><th>made by, of</th><th>what it is</th><th></th></tr>"
    return f'<div class="tb-scroll"><table class="tb-table">{head}{"".join(rows)}</table></div>'


def links(base: str, made: Sequence[tuple[str, Artefact | str]]) -> str:
    """Exports as HTML: a link to each file, or why there is none."""
    lines = []
    for about, each in made:
        if isinstance(each, str):
            lines.append(f'<li class="tb-wrong">{escape(each)}</li>')
        else:
            size = each.path.stat().st_size
            unit = f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
            address = f"{base}/artefact/{each.id}?save=true"
            name = f"{each.id}{each.path.suffix}"
            lines.append(f'<li><a href="{address}" download="{name}">{escape(about)}</a> {name}, {unit}</li>')
    return f'<ul class="tb-links">{"".join(lines)}</ul>'


def about_page(films: FilmChoice, facts: Sequence[str]) -> str:
    """What the page may read and keep, as Markdown."""
    folders = "".join(f"\n  - `{folder.resolve()}`" for folder in films.folders) or "\n  - none: upload a film"
    lines = [
        f"- It reads films and pictures in these folders only:{folders}",
        f"- and what you upload, at most {films.upload_bytes / 2**20:.0f} MiB each.",
        "- It fetches no addresses, loads nothing of other hosts, runs no shell, and asks for no passwords or keys.",
        "- Your session is not shown to other browsers. It stays on this machine's disk, and is found again when this "
        "page is loaded again.",
        *(f"- {fact}" for fact in facts),
    ]
    return "\n".join(lines)


def _shown(base: str, session: Session, made: Sequence[str]) -> Iterator[str]:
    """Pictures and films of a session, as Markdown."""
    present = {each.id: each for each in session.all()}
    for name in made:
        suffix = present[name].path.suffix if name in present else ""
        if suffix == ".png":
            yield f"![{name}]({base}/artefact/{name})"
        elif suffix == ".mp4":
            yield f'<video src="{base}/artefact/{name}" controls muted width="100%"></video>'


def _plain(text: str) -> str:
    """Text that is no markup."""
    return escape(text, quote=False)


def _short(value: object, tracks: dict[str, str]) -> str:
    """A value in a few letters; an object with the artefact of its masks."""
    values = value if isinstance(value, list | tuple) else [value]
    text = ", ".join(
        f"{each} ({tracks[each]})" if isinstance(each, str) and each in tracks else str(each) for each in values
    )
    return text if len(text) <= 60 else text[:57] + "..."
