"""What the player asks the server for: states, frames, masks and films of a session, and wishes in JSON."""

from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse

from datamodules.decoding.contract import DecodeError
from datamodules.storage.json_text import parse_json
from pretrain.assistant.film_choice import FilmChoice
from pretrain.assistant.page_parts import TYPES
from pretrain.assistant.visitor import Visitor
from pretrain.assistant.visitors import Visitors
from pretrain.assistant.wishes import text, whole

_KEEP = {"Cache-Control": "private, max-age=3600"}  # a frame of a film never changes; its address names the film


def add_routes(app: FastAPI, visitors: Visitors, films: FilmChoice) -> None:
    """Add the routes below `/session/NAME/` to an application; whoever knows a session's name may use it."""

    @app.exception_handler(ValueError)
    @app.exception_handler(DecodeError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.get("/session/{name}/state")
    def state(name: str) -> dict[str, Any]:
        return visitors.get(name).state()

    @app.get("/session/{name}/films")
    def names(name: str) -> list[str]:
        visitors.get(name)
        return films.names()

    @app.get("/session/{name}/frame/{index}.jpg")
    def frame(name: str, index: int) -> Response:
        return Response(jpeg(visitors.get(name).assistant.frame(index)), media_type="image/jpeg", headers=_KEEP)

    @app.get("/session/{name}/masks")
    def masks(name: str, first: int, stop: int) -> dict[int, dict[str, list[int]]]:
        return visitors.get(name).masks(first, stop)

    @app.get("/session/{name}/film.mp4")
    def film(name: str) -> FileResponse:
        playback = visitors.get(name).playback
        if playback is None:
            raise ValueError("there is no film: choose one first")
        return FileResponse(playback.need().path, media_type="video/mp4", headers=_KEEP)

    @app.get("/session/{name}/artefact/{artefact_id}")
    def artefact(name: str, artefact_id: str, save: bool = False) -> FileResponse:
        session = visitors.get(name).session
        found = session.get(artefact_id)
        kind = TYPES.get(found.path.suffix)
        if kind is None or found.path.parent != session.folder:
            raise ValueError(f"{artefact_id} is not for download")
        file_name = f"{artefact_id}{found.path.suffix}"
        how = "attachment" if save or kind not in ("image/png", "video/mp4") else "inline"
        return FileResponse(found.path, media_type=kind, filename=file_name, content_disposition_type=how)

    @app.post("/session/{name}/upload")
    async def upload(name: str, request: Request, file: str = "upload") -> dict[str, Any]:
        visitor = await run_in_threadpool(visitors.get, name)
        path = await films.receive(file, request.stream())
        try:
            await run_in_threadpool(visitor.open, path, True)
        finally:
            films.drop(path)
        return await run_in_threadpool(visitor.state)

    def wish(path: str, act: Callable[[Visitor, dict[str, Any]], dict[str, Any] | None]) -> None:
        async def grant(name: str, request: Request) -> dict[str, Any]:
            visitor = await run_in_threadpool(visitors.get, name)
            given = parse_json(await request.body())
            if not isinstance(given, dict):
                raise ValueError("a wish is a JSON object")
            return await run_in_threadpool(lambda: act(visitor, given) or visitor.state())

        granted: Callable[..., Awaitable[dict[str, Any]]] = grant
        app.add_api_route(f"/session/{{name}}/{path}", granted, methods=["POST"])

    wish("open", lambda visitor, given: visitor.open(films.path(text(given, "film"))))
    wish("show", lambda visitor, given: visitor.show(text(given, "artefact")))
    wish("point", lambda visitor, given: visitor.point(given))
    wish("track", lambda visitor, given: visitor.track())
    wish("cancel", lambda visitor, given: visitor.cancel())
    wish("rename", lambda visitor, given: visitor.rename(text(given, "object"), text(given, "name")))
    wish("hide", lambda visitor, given: visitor.hide(text(given, "object"), given.get("hidden") is not False))
    wish("delete", lambda visitor, given: visitor.delete(text(given, "object")))
    wish("cursor", lambda visitor, given: visitor.look(whole(given, "frame"), given.get("object")))


def jpeg(pixels: Any) -> bytes:
    """uint8 [H, W, 3] as JPEG without colour subsampling."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue()
