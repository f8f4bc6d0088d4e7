"""The server by OpenAI's own client: answers, streams, media, keys, limits, the queue, and hostile requests."""

import asyncio
import base64
import http.client
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from pretrain.chat.answerer import Request, Writing, Written
from pretrain.chat.server.addresses import allow, is_public
from pretrain.chat.server.app import ChatServer, serve
from pretrain.chat.server.limits import ServerLimits
from tests.helpers.chat import Known
from tests.helpers.videos import make

LIMITS = ServerLimits(
    body_bytes=300_000, media_bytes=100_000, characters=2000, media=3, video_seconds=5, answer_seconds=20, waiting=1
)


class Slow(Known):
    """Says what it was asked, and about what; `slow` keeps it until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(frames=4, size=16)
        self.requests: list[Request] = []
        self.go, self.left = threading.Event(), threading.Event()

    def stream(self, request: Request, writing: Writing, write: object) -> Written:
        self.requests.append(request)
        question = request.conversation.turns[-1].question
        if question == "too long":
            raise ValueError("a conversation of 9 tokens exceeds the context")
        if question == "slow":
            write("wait")
            self.go.wait(20)
        said = ["It", " is", f" {question}"] if question != "for ever" else [" on"] * 10_000
        for i, piece in enumerate(said):
            if not write(piece) or i + 1 == writing.most:
                self.left.set()
                return Written("".join(said[: i + 1]), i + 1, 7, False)
            if len(said) > 10:
                time.sleep(0.01)
        return Written("".join(said), len(said), 7, True)


class Page(http.server.BaseHTTPRequestHandler):
    """Another host: a film, a page that leads away, and one that is too large."""

    film = b""

    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/away" else 200)
        if self.path == "/away":
            self.send_header("Location", "/film")
        self.end_headers()
        self.wfile.write(self.film if self.path == "/film" else b"x" * 200_000)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Running:
    """A server in a thread, and another host that media may come from."""

    def __init__(self, folder: Path) -> None:
        Page.film = (folder / "film.mp4").read_bytes()
        self.host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        threading.Thread(target=self.host.serve_forever, daemon=True).start()
        hosts = [f"127.0.0.1:{self.host.server_port}"]
        self.answerer, self.port = Slow(), 0
        up = threading.Event()
        self.loop = asyncio.new_event_loop()

        def ready(port: int) -> None:
            self.port = port
            up.set()

        async def run() -> None:
            server = ChatServer(self.answerer, "shapes", "secret", allowed=allow([str(folder)], hosts), limits=LIMITS)
            self.task = asyncio.ensure_future(serve(server, "127.0.0.1", 0, ready))
            await asyncio.wait([self.task])

        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(run()))
        self.thread.start()
        assert up.wait(20)
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="secret", max_retries=0)

    def ask(self, content: object, **options: object) -> object:
        messages = [{"role": "user", "content": content}]
        return self.client.chat.completions.create(model="shapes", messages=messages, **options)

    def post(self, body: bytes, **headers: str) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        head = {"Content-Type": "application/json", "Authorization": "Bearer secret", **headers}
        connection.request("POST", "/v1/chat/completions", body, head)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def stop(self) -> None:
        self.host.shutdown()
        self.answerer.go.set()
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join(20)
        self.loop.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make(folder / "film.mp4", frames=24)
    make(folder / "long.mp4", frames=60, fps=10)
    (folder / "text.mp4").write_text("no video")
    (folder / "outside.mp4").symlink_to("/etc/passwd")
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    server = Running(folder)
    yield server
    server.stop()


def part(kind: str, url: str) -> dict:
    return {"type": kind, kind: {"url": url}}


def data(file: Path, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def test_the_official_client_gets_an_answer_about_several_turns_and_media(running: Running, folder: Path) -> None:
    from PIL import Image

    Image.new("RGB", (20, 30), (200, 10, 10)).save(folder / "red.png")
    content = [
        {"type": "text", "text": "what?"},
        part("video_url", data(folder / "film.mp4")),
        part("image_url", data(folder / "red.png", "image/png")),
        part("video_url", f"file://{folder}/film.mp4"),
    ]
    messages = [
        {"role": "system", "content": "Look closely."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": content},
    ]
    answer = running.client.chat.completions.create(model="shapes", messages=messages, max_tokens=9, temperature=0)
    assert answer.choices[0].message.content == "It is what?" and answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 10 and answer.model == "shapes"
    request = running.answerer.requests[-1]
    assert request.conversation.instruction == request.instruction == "Look closely."
    assert [turn.media for turn in request.conversation.turns] == [(), ("video", "image", "video")]
    assert [tuple(clip.shape) for clip in request.clips] == [(3, 4, 16, 16), (3, 1, 16, 16), (3, 4, 16, 16)]
    assert request.clips[1].float().mean((1, 2, 3)).tolist() == [200, 10, 10]
    assert [model.id for model in running.client.models.list()] == ["shapes"]


def test_a_stream_has_the_same_words_and_the_numbers_of_tokens(running: Running) -> None:
    chunks = list(running.ask("red", stream=True, stream_options={"include_usage": True}))
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "It is red" and len([piece for piece in said if piece]) == 3
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.completion_tokens == 3
    cut = list(running.ask("red", stream=True, max_completion_tokens=2))
    assert cut[-1].choices[0].finish_reason == "length"
    for options in ({"stream": True}, {}):  # a refusal is an error, not a stream
        with pytest.raises(openai.BadRequestError, match="exceeds the context"):
            running.ask("too long", **options)


def test_who_leaves_frees_the_model(running: Running) -> None:
    stream = running.ask("for ever", stream=True, max_completion_tokens=1024)
    next(iter(stream))
    running.answerer.left.clear()
    stream.close()
    assert running.answerer.left.wait(10)
    assert running.ask("next").choices[0].message.content == "It is next"


def test_the_queue_turns_away_what_it_cannot_hold(running: Running) -> None:
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(running.ask("slow"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while _waiting(running) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    with pytest.raises(openai.RateLimitError):
        running.ask("third")
    running.answerer.go.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2


def _waiting(running: Running) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    connection.request("GET", "/health")
    return json.loads(connection.getresponse().read())["waiting"]


def test_keys_names_and_browsers(running: Running) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=running.client.base_url, api_key="other", max_retries=0).models.list()
    body = json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()
    assert running.post(body)[0] == 200
    assert running.post(body, Host="evil.example")[0] == 403  # a name that was made to point here
    assert running.post(body, **{"Content-Type": "text/plain"})[0] == 415  # what a page may send without asking
    server = type("Keyless", (), {"key": None})()
    with pytest.raises(ValueError, match="set an API key"):
        asyncio.run(serve(server, "0.0.0.0", 0, print))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no text"),
        ([{"type": "audio", "text": "x"}], "is no text, image_url"),
        ([{"type": "text", "text": 3}], "holds no text"),
        ([{"type": "text", "text": "x"}, part("video_url", "data:video/mp4;base64,####")], "no base64"),
        ([{"type": "text", "text": "x"}, part("video_url", "data:video/mp4,AAAA")], "has the form"),
        ([{"type": "text", "text": "x"}, part("video_url", "data:video/mp4;base64,AAAA")], "cannot be read"),
        ([{"type": "text", "text": "x"}, part("video_url", "file:///etc/passwd")], "no such file"),
        ([{"type": "text", "text": "x"}, part("video_url", "ftp://a/b")], "is a data: URL"),
        ([{"type": "text", "text": "x"}, part("video_url", "http://127.0.0.1:9/x")], "not among those"),
        ([{"type": "text", "text": "x"}, part("video_url", "http://[::1")], "no URL"),
        ([{"type": "text", "text": "x"}, *[part("image_url", "data:,")] * 4], "or 3 videos"),
        ("x" * 2001, "2000 characters"),
    ],
)
def test_refused_content(running: Running, content: object, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        running.ask(content)


def test_files_are_only_those_of_the_folder_and_within_the_limits(running: Running, folder: Path) -> None:
    for name, message in (
        ("outside.mp4", "no such file"),
        ("../media0/../../etc/passwd", "no such file"),
        ("text.mp4", "cannot be read"),
        ("long.mp4", "lasts 6 s, and 5 s are allowed"),
        ("%00", "no such file"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            running.ask([{"type": "text", "text": "x"}, part("video_url", f"file://{folder}/{name}")])
    (folder / "big.mp4").write_bytes(b"x" * 100_001)
    with pytest.raises(openai.APIStatusError, match="more than 100000 bytes"):
        running.ask([{"type": "text", "text": "x"}, part("video_url", f"file://{folder}/big.mp4")])


def test_pages_are_only_those_of_listed_hosts_without_redirects(running: Running) -> None:
    host = f"http://127.0.0.1:{running.host.server_port}"
    words = {"type": "text", "text": "x"}
    running.ask([words, part("video_url", f"{host}/film")])
    assert running.answerer.requests[-1].clips[0].shape == (3, 4, 16, 16)
    for address, message in (
        (f"{host}/away", "answered 302"),
        (f"{host}/large", "more than 100000 bytes"),
        (f"{host.replace('127.0.0.1', 'localhost')}/film", "not among those"),
        (f"{host.replace('//', '//me:word@')}/film", "not among those"),
    ):
        with pytest.raises(openai.APIStatusError, match=message):
            running.ask([words, part("video_url", address)])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"messages": []}', 400),
        (b'{"messages": [{"role": "assistant", "content": "x"}]}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1e9}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "tools": []}', 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"messages": [{"role": "user", "content": "' + b"x" * 300_000 + b'"}]}', 413),
    ],
)
def test_hostile_bodies_are_refused_and_the_server_goes_on(running: Running, body: bytes, status: int) -> None:
    found, content = running.post(body)
    assert found == status and content["error"]["message"]


def test_addresses_of_ones_own_network_are_not_public() -> None:
    assert is_public("8.8.8.8")
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:10.0.0.1", "0.0.0.0"):
        assert not is_public(address), address
    with pytest.raises(ValueError, match="is no host"):
        allow(hosts=["http://example.org"])


def test_regions_of_a_medium_are_masks_of_its_frames(
    running: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {"size": [32, 32], "counts": [[0, 512, 512]] * 24}  # column by column: the left half

    def ask(regions: object, question: str = "what is <obj1>?") -> None:
        film = {"url": data(folder / "film.mp4"), "regions": regions}
        running.ask([{"type": "video_url", "video_url": film}, {"type": "text", "text": question}])

    with pytest.raises(openai.BadRequestError, match="was not trained with regions"):
        ask([left])
    monkeypatch.setattr(running.answerer, "regions", True)
    ask([left])
    (covers,) = running.answerer.requests[-1].regions
    assert covers.shape == (1, 4, 16, 16) and (covers[..., :8] == 1).all() and (covers[..., 8:] == 0).all()
    wrong = [
        ("none", "are a list of at most 16"),
        ([left] * 17, "are a list of at most 16"),
        ([{"size": [32], "counts": []}], "no size"),
        ([{"size": [32, 32], "counts": [[0, 1025]]}], "no counts"),
        ([{"size": [32, 32], "counts": [[-1, 1025]]}], "no counts"),
        ([{"size": [32, 32], "counts": [[True, 1023]]}], "no counts"),
        ([{"size": [32, 32], "counts": [[1024]]}], "has 1 masks, and the medium 24 frames"),
    ]
    for regions, message in wrong:
        with pytest.raises(openai.BadRequestError, match=message):
            ask(regions)
    with pytest.raises(openai.BadRequestError, match="names <obj2>, and 1 regions are given"):
        ask([left], "what is <obj2>?")


def test_a_response_format_is_a_schema_that_is_known(running: Running) -> None:
    def form(schema: object) -> dict:
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    asked: list[object] = [{"type": "text"}, {"type": "json_object"}, form({"type": "string"})]
    for given in asked:
        running.ask("red", response_format=given)
    wrong = [{"type": "xml"}, {"type": "json_schema"}, form("no schema"), form({"type": "no such type"})]
    for given in wrong:
        with pytest.raises(openai.BadRequestError, match="response_format"):
            running.ask("red", response_format=given)
