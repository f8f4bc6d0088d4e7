"""The page: a player to point at things, a conversation, the artefacts, and exports; served on this machine."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from pretrain.assistant.artefacts import Artefact
from pretrain.assistant.export import FORMATS, Scene, export
from pretrain.assistant.film_choice import FilmChoice
from pretrain.assistant.page_guard import add_guard
from pretrain.assistant.page_parts import about_page, artefact_list, conversation, links
from pretrain.assistant.page_routes import add_routes
from pretrain.assistant.tracker import Cancelled
from pretrain.assistant.visitor import Visitor
from pretrain.assistant.visitors import Visitors
from pretrain.chat.server.app import LOOPBACK

_HERE = Path(__file__).parent
_SCRIPTS = ("player_masks.js", "player.js", "player_pointing.js", "player_films.js")
_QUESTIONS = ("What is this?", "What does obj1 do?", "Cut obj1 out.")
# The session's name outlives a reload of its tab, and is not shared with other tabs.
_REMEMBER = "() => [sessionStorage.getItem('tubelet-session') || '']"


def page_app(
    visitors: Visitors, films: FilmChoice, facts: Sequence[str] = (), hosts: tuple[str, ...] | None = LOOPBACK
) -> FastAPI:
    """The application that serves the page at / and the player's requests.

    Args:
        facts: sentences for the page: the tracker, the model, what memory is held to.
        hosts: see `add_guard`.
    """
    app = FastAPI(title="Tubelet", docs_url=None, redoc_url=None, openapi_url=None)
    add_guard(app, hosts)
    add_routes(app, visitors, films)
    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue"
    )
    return gr.mount_gradio_app(
        app,
        build(visitors, films, facts),
        path="/",
        theme=theme,
        css=(_HERE / "page.css").read_text(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=1,  # bytes: the page takes uploads by its own route, which streams them
        allowed_paths=[],
        blocked_paths=[str(visitors.sessions.folder), *(str(folder) for folder in films.folders)],
    )


def player() -> gr.HTML:
    """The player: a canvas over a video, and the list of objects."""
    return gr.HTML(
        value={"base": ""},
        html_template=(_HERE / "player.html").read_text(),
        css_template=(_HERE / "player.css").read_text(),
        js_on_load="\n".join((_HERE / name).read_text() for name in _SCRIPTS),
        apply_default_css=False,
        elem_id="player",
    )


def build(visitors: Visitors, films: FilmChoice, facts: Sequence[str]) -> gr.Blocks:
    """The page's parts and what they do."""

    def here(name: str) -> tuple[str, Visitor]:
        """The address of a session, and its visitor."""
        try:
            return f"/session/{name}", visitors.get(name)
        except ValueError as error:
            raise gr.Error(f"{error}: load the page again") from None

    def enter(remembered: str, request: gr.Request) -> tuple[Any, ...]:
        try:
            name = visitors.enter(str(request.session_hash), remembered)
        except ValueError as error:  # as many sessions as allowed
            raise gr.Error(str(error)) from None
        base, visitor = here(name)
        return name, {"base": base, "news": 0}, conversation(base, visitor.session, visitor.assistant.turns)

    def ask(text: str, name: str) -> Iterator[tuple[Any, ...]]:
        base, visitor = here(name)
        shown = conversation(base, visitor.session, visitor.assistant.turns)
        waits = {"role": "assistant", "content": "…", "metadata": {"title": "working", "status": "pending"}}
        asked = [*shown, {"role": "user", "content": escape(text, quote=False)}]
        yield [*asked, waits], "", {"base": base, "news": f"asked {len(shown)}"}
        try:
            visitor.ask(text)
        except (ValueError, Cancelled) as error:
            asked.append({"role": "assistant", "content": escape(str(error), quote=False)})
        else:
            asked = conversation(base, visitor.session, visitor.assistant.turns)
        yield asked, "", {"base": base, "news": f"answered {len(shown)}"}

    def artefacts(name: str) -> tuple[str, Any]:
        base, visitor = here(name)
        films_made = [each.id for each in visitor.session.all() if each.kind in ("film", "picture")]
        return artefact_list(base, visitor.session), gr.Dropdown(choices=films_made, value=None)

    def show(artefact_id: str | None, name: str) -> dict[str, Any]:
        base, visitor = here(name)
        if artefact_id is None:
            raise gr.Error("choose a film or picture first")
        try:
            visitor.show(artefact_id)
        except ValueError as error:
            raise gr.Error(str(error)) from None
        return {"base": base, "news": artefact_id}

    def save(names: list[str], name: str) -> str:
        base, visitor = here(name)
        film = visitor.assistant.film
        if film is None:
            raise gr.Error("there is no film: choose one first")
        objects, turns = list(visitor.assistant.objects.values()), list(visitor.assistant.turns)
        made: list[tuple[str, Artefact | str]] = []
        for each in names:
            try:
                made.append((FORMATS[each].about, export(each, Scene(visitor.session, film, objects, turns))))
            except ValueError as error:
                made.append((FORMATS[each].about, str(error)))
        return links(base, made)

    def leave(request: gr.Request) -> None:
        visitors.leave(str(request.session_hash))

    with gr.Blocks(title="Tubelet: point and ask", analytics_enabled=False, fill_width=True) as page:
        name, remembered = gr.State(""), gr.Textbox(visible=False)
        gr.HTML('<h1 class="tb-title">Point at a film and ask</h1>', padding=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=560):
                view = player()
            with gr.Column(scale=3, min_width=340), gr.Tabs():
                with gr.Tab("Ask"):
                    chat = gr.Chatbot(
                        show_label=False,
                        height="calc(100vh - 330px)",
                        min_height=260,
                        buttons=["copy_all"],
                        feedback_options=None,
                        placeholder="Point at something, then ask about it.",
                        elem_id="chat",
                    )
                    text = gr.Textbox(
                        show_label=False,
                        placeholder="What does obj1 do after it passes obj2?",
                        submit_btn=True,
                        max_lines=3,
                        max_length=2000,
                        elem_id="ask",
                    )
                    gr.Examples([[question] for question in _QUESTIONS], text, label="Such as", cache_examples=False)
                with gr.Tab("Artefacts") as tab:
                    table = gr.HTML(apply_default_css=False, elem_id="artefacts")
                    with gr.Row():
                        chosen = gr.Dropdown(label="Films and pictures", scale=3)
                        point = gr.Button("Point at it", scale=1)
                with gr.Tab("Export"):
                    formats = gr.CheckboxGroup(
                        [(how.about, key) for key, how in FORMATS.items()],
                        value=["masks", "csv"],
                        label="What to save",
                        elem_id="formats",
                    )
                    write = gr.Button("Make the files", variant="primary", elem_id="export")
                    saved = gr.HTML(apply_default_css=False, elem_id="saved")
                with gr.Tab("About"):
                    gr.Markdown(about_page(films, facts), elem_id="about")
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        page.load(enter, [remembered], [name, view, chat], js=_REMEMBER, **quiet)
        page.unload(leave)
        text.submit(ask, [text, name], [chat, text, view], trigger_mode="multiple", **quiet)
        tab.select(artefacts, [name], [table, chosen], **quiet)
        point.click(show, [chosen, name], [view], **quiet)
        write.click(save, [formats, name], [saved], api_visibility="private", show_progress="minimal")
    page.queue(default_concurrency_limit=16, api_open=False)  # one visitor's question does not hold up another's
    return page


def serve(app: FastAPI, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until interrupted.

    Args:
        port: 0: any free one.
        ready: called with the port as soon as requests are taken.

    Raises:
        OSError: the port is taken.
    """
    import socket

    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(self.servers[0].sockets[0].getsockname()[1])

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)).run([listening])
