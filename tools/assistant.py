"""Point at things in a film and ask about them, in the browser: `python tools/assistant.py --allow my/films`.

It needs no weights and no network: objects are followed by optical flow and colours, and rules choose the tools. With
`--model DIR` (a run, checkpoint or export of VideoChat) or `--model-url URL` (any server of OpenAI's protocol; its key
comes from TUBELET_MODEL_KEY in the environment) questions are answered by that model, too. `--demo DIR` makes films of
moving shapes there, trains a tiny chat model on such shapes once, in minutes, and uses both.
"""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # also from a checkout that is not installed
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported

from pretrain.errors import reports_errors  # noqa: E402 found by the line above
from pretrain.parser import Parser  # noqa: E402


@reports_errors
def main(arguments: list[str]) -> int:
    """Serves the page until it is interrupted."""
    parser = Parser(prog="assistant.py", description=__doc__)
    parser.add_argument("--allow", action="append", default=[], metavar="DIR", help="films may be read from here")
    parser.add_argument("--demo", type=Path, metavar="DIR", help="films and a tiny chat model of moving shapes")
    parser.add_argument("--model", help="run, checkpoint or export of a chat model")
    parser.add_argument("--model-url", help="server of a chat model by OpenAI's protocol, such as http://host:8000/v1")
    parser.add_argument("--model-name", help="which model of that server (default: its first)")
    parser.add_argument("--blind", action="store_true", help="the model takes no pictures and films")
    parser.add_argument("--planner", choices=("rules", "model"), default="rules", help="(default %(default)s)")
    parser.add_argument(
        "--pointing",
        nargs="+",
        choices=("marks", "regions", "text"),
        default=["marks", "text"],
        help="how the model is told of objects: outlines in the frames, region tokens (of a model trained with them), "
        "places in words (default: marks text)",
    )
    parser.add_argument("--captioner", help="folder of an image captioner of transformers, or package.module:Class")
    parser.add_argument("--classifier", help="run or checkpoint of Classify, to recognise actions")
    parser.add_argument("--index", help="folder of features to search your videos in (see tools/search.py)")
    parser.add_argument("--lavie", help="folder of LaVie's weights, to generate films (see tools/generate.py)")
    parser.add_argument("--editor", help="folder of an inpainting pipeline of diffusers, to replace objects")
    parser.add_argument("--tracker", default="flow", help="flow, or a folder of SAM 2 or EdgeTAM (default %(default)s)")
    parser.add_argument("--device", default="cpu", help="of all networks (default %(default)s)")
    parser.add_argument("--sessions", type=Path, default=Path("runs/assistant"), help="folder (default %(default)s)")
    parser.add_argument("--upload-mib", type=int, default=512, help="of an upload, at most (default %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="(default %(default)s); 0: any free one")
    a = parser.parse_args(arguments)
    if a.model and a.model_url:
        parser.error("--model and --model-url are two models: give one")
    from pretrain.assistant.launch import Options, launch

    model = a.model
    if a.demo:
        from pretrain.assistant.demo_films import write_demo_films

        write_demo_films(a.demo / "films")
        a.allow.append(str(a.demo / "films"))
        model = model or (None if a.model_url else train_tiny(a.demo))
    with served(model, a.device) if model else contextlib.nullcontext((a.model_url, None)) as (url, key):
        launch(
            Options(
                folders=tuple(a.allow),
                sessions=a.sessions,
                upload_bytes=a.upload_mib * 2**20,
                tracker=a.tracker,
                device=a.device,
                model_url=url,
                model_name=a.model_name,
                model_key=key or os.environ.get("TUBELET_MODEL_KEY"),
                model_sees=not a.blind,
                model_plans=a.planner == "model",
                pointing=tuple(a.pointing),
                tools={name: getattr(a, name) for name in ("captioner", "classifier", "index", "lavie", "editor")},
            ),
            a.host,
            a.port,
        )
    return 0


def train_tiny(folder: Path) -> str:
    """The run of the tiny chat model in a folder, trained if it is not there."""
    from pretrain.assistant.demo_chat import RECIPE, is_trained, training

    folder = folder.resolve()
    run = folder / RECIPE
    if is_trained(folder):
        return str(run)
    print(f"training a tiny chat model on moving shapes in {run} (done once, in minutes; --model DIR takes another)")
    words = [sys.executable, "-m", "pretrain", *training(ROOT, folder)]
    done = subprocess.run(words, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"the training of the tiny chat model failed with exit code {done.returncode}")
    return str(run)


@contextlib.contextmanager
def served(model: str, device: str) -> Iterator[tuple[str, str]]:
    """tools/serve.py with a model: its address, and the key that only this process knows."""
    key = secrets.token_urlsafe(24)
    words = [sys.executable, str(ROOT / "tools/serve.py"), "--model", model, "--port", "0", "--device", device]
    environment = os.environ | {"TUBELET_API_KEY": key}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not address.startswith("http"):
                raise SystemExit(f"tools/serve.py did not start with the model {model}: see above")
            yield address, key
        finally:
            server.terminate()


if __name__ == "__main__":
    sys.exit(main())
