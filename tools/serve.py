"""Serves a chat model by OpenAI's protocol: `python tools/serve.py --model DIR`, then POST /v1/chat/completions.

Messages may have parts `video_url` and `image_url` (data: in base64; file: in the folders of --files; http: and https:
of the hosts of --allow-host) and `file`. It listens on this machine only, unless --host says otherwise, which needs a
key: --api-key-file FILE, or TUBELET_API_KEY in the environment.
"""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Serves until it is interrupted."""
    parser = Parser(prog="serve.py", description=__doc__)
    parser.add_argument(
        "--model", required=True, help="run, checkpoint or export of VideoChat, or the folder of a language model alone"
    )
    parser.add_argument("--name", default="videochat", help="that clients see (default %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="(default %(default)s); 0: any free one")
    parser.add_argument("--api-key-file", type=Path, help="file with the key that clients must send")
    parser.add_argument("--files", action="append", default=[], metavar="DIR", help="media may be files in this folder")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST", help="media may come from this host"
    )
    parser.add_argument("--most", type=int, default=1024, help="new tokens of an answer (default %(default)s)")
    parser.add_argument("--media-bytes", type=int, default=2**25, help="of a video or picture (default %(default)s)")
    parser.add_argument("--video-seconds", type=float, default=600.0, help="that it may last (default %(default)s)")
    parser.add_argument("--answer-seconds", type=float, default=120.0, help="to write an answer (default %(default)s)")
    parser.add_argument("--waiting", type=int, default=8, help="requests that may wait (default %(default)s)")
    parser.add_argument("--frames", type=int, help="of a video (default: as in training)")
    parser.add_argument("--tiles", type=int, help="of a frame at most, for a model that sees tiles (default: 6)")
    parser.add_argument("--device", default="cpu", help="(default %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    a = parser.parse_args(arguments)
    import torch

    from pretrain.chat.answerer import Answerer
    from pretrain.chat.load import load_assistant
    from pretrain.chat.server.addresses import allow
    from pretrain.chat.server.app import LOOPBACK, ChatServer, serve
    from pretrain.chat.server.limits import ServerLimits
    from pretrain.chat.text_model import is_text_model, load_text_model

    key = a.api_key_file.read_text().strip() if a.api_key_file else os.environ.get("TUBELET_API_KEY")
    if key == "":
        parser.error("the API key is empty")
    limits = ServerLimits(
        body_bytes=2 * a.media_bytes,
        media_bytes=a.media_bytes,
        video_seconds=a.video_seconds,
        most_tokens=a.most,
        answer_seconds=a.answer_seconds,
        waiting=a.waiting,
    )
    allowed = allow(a.files, a.allow_host)
    dtype = getattr(torch, a.dtype)
    if is_text_model(a.model):
        if (a.frames, a.tiles) != (None, None):
            parser.error("--frames and --tiles are of a model that sees, and this folder holds a language model alone")
        assistant: Answerer = load_text_model(a.model, a.device, dtype)
    else:
        assistant = load_assistant(a.model, a.device, dtype, a.frames, a.tiles)
    own_hosts = LOOPBACK if a.host in LOOPBACK else None

    async def run() -> None:
        server = ChatServer(assistant, a.name, key, own_hosts, allowed, limits)
        await serve(server, a.host, a.port, lambda port: print(f"http://{a.host}:{port}/v1", flush=True))

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
