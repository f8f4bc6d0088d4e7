"""From options to a served page: sessions, tracker, tools and planner, and what the page says about them."""

import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI

from pretrain.assistant.artefacts import Session, Sessions
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.door import Door
from pretrain.assistant.film_choice import FilmChoice, offered
from pretrain.assistant.flow_tracker import FlowTracker
from pretrain.assistant.page import page_app, serve
from pretrain.assistant.planners.language import LanguagePlanner
from pretrain.assistant.toolbox import load_toolbox
from pretrain.assistant.tools.describing import TOLD
from pretrain.assistant.tracker import Tracker
from pretrain.assistant.visitors import Visitors
from pretrain.chat.server.app import LOOPBACK

NO_MODEL = (
    "No chat model answers questions: start with `--model DIR` (see docs/chat.md), `--model-url URL`, or `make "
    "assistant`, which trains a tiny one."
)


@dataclass(frozen=True)
class Options:
    """What a page is made of.

    Args:
        folders: that films may be read from.
        sessions: folder of the sessions.
        upload_bytes: of one upload.
        tracker: `flow`, or a folder of a SAM 2 or EdgeTAM video model of transformers.
        device: of the tracker and the tools' networks.
        model_url: of OpenAI's protocol; None: no chat model.
        model_name: there; None: the first.
        model_key: that it wants.
        model_sees: it takes pictures and films.
        model_plans: it chooses the tools; rules do where it fails.
        pointing: how it is told of objects, see `describing.POINTING`.
        tools: models of tools, by the names of `load_toolbox`: captioner, classifier, index, lavie, editor.
    """

    folders: tuple[str, ...] = ()
    sessions: Path = Path("runs/assistant")
    upload_bytes: int = 2**29
    tracker: str = "flow"
    device: str = "cpu"
    model_url: str | None = None
    model_name: str | None = None
    model_key: str | None = None
    model_sees: bool = True
    model_plans: bool = False
    pointing: tuple[str, ...] = TOLD
    tools: dict[str, str | None] = field(default_factory=dict)


def make_app(options: Options, uploads: Path, hosts: tuple[str, ...] | None = LOOPBACK) -> tuple[FastAPI, Visitors]:
    """The application and its visitors.

    Args:
        uploads: a folder that uploads pass through.
        hosts: see `add_guard`.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: the model is to plan, and there is none.
    """
    films = FilmChoice(offered(options.folders), uploads, options.upload_bytes)
    door = None
    if options.model_url is not None:
        door = Door(options.model_url, options.model_key, options.model_name, options.model_sees)
    if options.model_plans and door is None:
        raise ValueError("a model that plans is needed: give --model or --model-url")
    tools = load_toolbox(door, device=options.device, pointing=options.pointing, **options.tools)
    folders = (*films.folders, uploads)
    tracker = tracker_maker(options.tracker, options.device)

    def assistant(session: Session) -> Assistant:
        planner = LanguagePlanner(door) if door is not None and options.model_plans else None
        return Assistant(session, tracker(), folders, tools, planner)

    visitors = Visitors(Sessions(options.sessions), assistant)
    return page_app(visitors, films, facts(options, tracker(), hosts), hosts), visitors


def tracker_maker(tracker: str, device: str) -> Callable[[], Tracker]:
    """What makes a tracker for a session: weights are shared, what was pointed at is not."""
    if tracker == "flow":
        return FlowTracker
    from pretrain.assistant.sam_tracker import SamTracker, load_sam_tracker

    first = load_sam_tracker(tracker, device)
    return lambda: SamTracker(first.model, first.processor, first.name)


def facts(options: Options, tracker: Tracker, hosts: tuple[str, ...] | None) -> list[str]:
    """Sentences for the page about its models and what memory is held to."""
    model = f"Questions in words go to the chat model at {options.model_url}." if options.model_url else NO_MODEL
    found = [
        f"Objects are followed by {tracker.name}.",
        f"Memory: at most {tracker.window} frames of a film are held for tracking, and what x264 looks ahead for "
        "copies, whatever its length; masks and copies are on the disk.",
        model,
    ]
    if hosts is None:
        found.append("**It listens to other machines: whoever reaches it can see the films in these folders.**")
    return found


def launch(options: Options, host: str, port: int) -> None:
    """Serve until interrupted; prints the address."""
    hosts = LOOPBACK if host in LOOPBACK else None
    if hosts is None:
        print(
            f"warning: whoever reaches {host} can use this page and see the films in the allowed folders; 127.0.0.1 is "
            "for this machine only",
            file=sys.stderr,
        )
    if not options.folders:
        print("no --allow DIR: the page shows uploads only", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    uploads = Path(tempfile.mkdtemp(prefix="tubelet-uploads-"))
    visitors = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            app, visitors = make_app(options, uploads, hosts)
        serve(app, host, port, lambda port: print(f"http://{shown}:{port}", flush=True))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        if visitors is not None:
            visitors.close()
        shutil.rmtree(uploads, ignore_errors=True)
