"""What requests a page refuses, and what it lets a browser load: nothing of other hosts."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from pretrain.chat.server.app import LOOPBACK, host_name

_WISH_BYTES = 2**20
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
# Of gradio, and not used by the page: its own uploads, files of the disk, fetching of other pages.
_CLOSED = ("/gradio_api/upload", "/gradio_api/file", "/gradio_api/proxy", "/gradio_api/stream", "/gradio_api/deep_link")


def add_guard(app: FastAPI, hosts: tuple[str, ...] | None = LOOPBACK) -> None:
    """Add the checks to an application.

    Args:
        hosts: names by which the server may be addressed; None: any. A page of another site that a browser on this
            machine opens has another name, even if it points here.
    """

    @app.middleware("http")
    async def guard(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        response = refusal(request, hosts) or await handle(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


def refusal(request: Request, hosts: tuple[str, ...] | None) -> JSONResponse | None:
    """Why a request is not answered; None if it is."""
    if hosts is not None and host_name(request.headers.get("host", "")) not in hosts:
        return _error(403, "this server is not addressed by that name")
    path = request.url.path
    if path.startswith(_CLOSED):
        return _error(404, "there is nothing here")
    if request.method == "POST":
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            return _error(403, "pages of other sites may not ask this server")
        if path.startswith("/session/") and not path.endswith("/upload"):
            # A browser sends this type of content to another site only after asking it, and this server never agrees.
            if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                return _error(415, "the content type is application/json")
            length = request.headers.get("content-length", "")
            if not length.isdigit() or int(length) > _WISH_BYTES:
                return _error(413, f"a wish has at most {_WISH_BYTES} bytes")
    return None


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
