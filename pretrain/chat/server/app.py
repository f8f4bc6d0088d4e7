"""The server: routes, keys, a queue before the model, and answers whole or in a stream."""

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web

from models.chat.templates import Turn
from pretrain.chat.answerer import Answerer, Request, Writing, Written
from pretrain.chat.media import Clip
from pretrain.chat.server.addresses import Allowed, fetch
from pretrain.chat.server.decode import Decoding
from pretrain.chat.server.limits import Refused, ServerLimits
from pretrain.chat.server.messages import Completion, read_completion
from pretrain.chat.server.regions import shown
from pretrain.chat.talk import request_of

log = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ChatServer:
    """Answers `/v1/chat/completions` with one model, one request at a time.

    Args:
        answerer: the model.
        name: that clients see.
        key: that a client must send; None: none.
        hosts: names by which the server may be addressed; None: any. A page of another site that a browser on this
            machine opens has another name, even if it points here.
        allowed: where media may come from.
        limits: what a request may cost.
    """

    def __init__(
        self,
        answerer: Answerer,
        name: str = "videochat",
        key: str | None = None,
        hosts: tuple[str, ...] | None = LOOPBACK,
        allowed: Allowed | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        self.answerer, self.name, self.key, self.hosts = answerer, name, key, hosts
        self.allowed, self.limits = allowed or Allowed(), limits or ServerLimits()
        self.decoder = Decoding(answerer.frames, answerer.size, self.limits, answerer.tiles)
        self.thread = ThreadPoolExecutor(1, "tubelet-answers")
        self.turn, self.inside = asyncio.Lock(), 0

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=self.limits.body_bytes, middlewares=[self._guard])
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, _: web.Application) -> None:
        self.decoder.close()
        self.thread.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        """Names and keys first; every refusal has OpenAI's form."""
        try:
            if self.hosts is not None and host_name(request.headers.get("Host", "")) not in self.hosts:
                raise Refused(403, "this server is not addressed by that name")
            if self.key is not None and request.path != "/health":
                sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
                if not hmac.compare_digest(sent, f"Bearer {self.key}".encode()):
                    raise Refused(401, "the API key is missing or wrong", "invalid_api_key")
            return await handler(request)
        except Refused as error:
            return _error(error.status, error.message, error.code)
        except web.HTTPException as error:
            if error.status == 413:
                return _error(413, f"the request has more than {self.limits.body_bytes} bytes")
            return _error(error.status, error.reason or "")
        except ConnectionError:  # the client has gone
            raise
        except Exception:
            log.exception("a request failed")
            return _error(500, "the server failed at this request", "internal_error")

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "waiting": self.inside})

    async def models(self, _: web.Request) -> web.Response:
        about = {"id": self.name, "object": "model", "created": 0, "owned_by": "tubelet"}
        about["regions"] = self.answerer.regions  # an extension: whether media may have regions
        return web.json_response({"object": "list", "data": [about]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """A chat completion. A browser sends this type of content to another site only after asking it, and this server
        never agrees."""
        if request.content_type != "application/json":
            raise Refused(415, "the content type is application/json")
        if self.inside > self.limits.waiting:
            raise Refused(429, f"{self.inside} requests are before this one: try again later", "rate_limit_exceeded")
        self.inside += 1
        try:
            asked = read_completion(await request.read(), self.limits)
            ready = await self._request(asked)
            async with self.turn:
                if asked.stream:
                    return await self._stream(request, asked, ready)
                written = await self._write(ready, asked.writing, lambda piece: None)
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": written.text},
                "finish_reason": _why(written),
            }
            return web.json_response(self._about("chat.completion") | {"choices": [choice], "usage": _usage(written)})
        finally:
            self.inside -= 1

    async def _request(self, asked: Completion) -> Request:
        turns, clips, regions = [], [], []
        given = any(medium.regions for message in asked.messages for medium in message.media)
        if given and not self.answerer.regions:
            raise Refused(400, f"{self.name} was not trained with regions: leave them out")
        for message in asked.messages:
            own: list[Clip] = []
            for medium in message.media:
                content = await fetch(medium.address, self.allowed, self.limits)
                own.append(await self.decoder.clip(content, f"medium {len(clips) + len(own) + 1}"))
                regions.append(await asyncio.to_thread(shown, medium.regions, own[-1]) if medium.regions else None)
            clips += own
            turns.append(Turn(message.question, message.answer, tuple(clip.kind for clip in own)))
        try:
            return request_of(turns, clips, asked.instruction, regions if given else ())
        except ValueError as error:  # a region that is not there
            raise Refused(400, str(error)) from None

    async def _write(self, ready: Request, writing: Writing, hear: Callable[[str], None]) -> Written:
        """The answer, written in the model's thread until it ends, its time is over, or nobody waits for it any more;
        `hear` gets its pieces in this one."""
        loop, until, gone = asyncio.get_running_loop(), time.monotonic() + self.limits.answer_seconds, False

        def write(piece: str) -> bool:
            loop.call_soon_threadsafe(hear, piece)
            return not gone and time.monotonic() < until

        job = loop.run_in_executor(self.thread, self.answerer.stream, ready, writing, write)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            gone = True
            await asyncio.wait([job])  # the model is free only then
            raise
        except ValueError as error:  # longer than the context
            raise Refused(400, str(error), "context_length_exceeded") from None

    async def _stream(self, request: web.Request, asked: Completion, ready: Request) -> web.StreamResponse:
        """Server-sent events. The first piece decides whether there is an answer at all: a refusal is no stream."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        job = asyncio.ensure_future(self._write(ready, asked.writing, pieces.put_nowait))
        job.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            piece = await pieces.get()
            if piece is None:
                await job  # raises if the request is refused
            about = self._about("chat.completion.chunk")
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
            await response.prepare(request)

            async def send(delta: dict[str, Any], why: str | None = None) -> None:
                choice = {"index": 0, "delta": delta, "finish_reason": why}
                await response.write(_event(about | {"choices": [choice]}))

            await send({"role": "assistant", "content": ""})
            while piece is not None:
                await send({"content": piece})
                piece = await pieces.get()
            written = await job
            await send({}, _why(written))
            if asked.usage:
                await response.write(_event(about | {"choices": [], "usage": _usage(written)}))
            await response.write(b"data: [DONE]\n\n")
            return response
        finally:
            if not job.done():
                job.cancel()
                await asyncio.wait([job])

    def _about(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.name,
        }


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _error(status: int, message: str, code: str = "invalid_request") -> web.Response:
    headers = {"Retry-After": "5"} if status == 429 else None
    content = {"error": {"message": message, "type": code, "param": None, "code": code}}
    return web.json_response(content, status=status, headers=headers)


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _why(written: Written) -> str:
    return "stop" if written.finished else "length"


def _usage(written: Written) -> dict[str, int]:
    asked, tokens = written.asked, written.tokens
    return {"prompt_tokens": asked, "completion_tokens": tokens, "total_tokens": asked + tokens}


async def serve(server: ChatServer, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until cancelled.

    Args:
        port: 0: any free one.
        ready: called with the port as soon as requests are taken.

    Raises:
        ValueError: another host than this machine's loopback, and no key.
    """
    if host not in LOOPBACK and server.key is None:
        raise ValueError(f"whoever reaches {host} could use the model: set an API key, or stay on {LOOPBACK[0]}")
    runner = web.AppRunner(server.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        ready(runner.addresses[0][1])
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
