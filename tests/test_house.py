"""The rooms: imports run one way and in no circle, each file lies in a room, heavy packages load where used."""

import ast
import subprocess
import sys
from functools import cache

import pytest

from tests.helpers.paths import ROOT

# One table: each room and the rooms or files that it may import. CONTRIBUTING.md prints it. A room may import itself;
# a file lies in the room of the longest name that its path begins with.
STORAGE = "datamodules/storage"
LETTERING = "datamodules/lettering.py"
CORES = "datamodules/cores.py"
ALL_DATA = (
    STORAGE,
    "datamodules/decoding",
    "datamodules/sources",
    "datamodules/sources/annotated",
    "datamodules/clips",
)
MODELS = ("models", "models/diffusion", "models/chat", "models/convert")
ROOMS: dict[str, tuple[str, ...]] = {
    "models": (),
    "models/diffusion": ("models",),
    "models/chat": ("models",),
    "models/convert": ("models", "models/diffusion", "models/chat"),
    STORAGE: (),
    LETTERING: (),
    CORES: (),
    "datamodules/decoding": (),
    "datamodules/sources": (STORAGE, "datamodules/decoding"),
    "datamodules/sources/annotated": (STORAGE, "datamodules/decoding", "datamodules/sources"),
    "datamodules/clips": ("datamodules/decoding", "datamodules/sources/order.py"),
    "datamodules/loading": (*ALL_DATA, CORES),
    "datamodules/making": (
        *(STORAGE, LETTERING, CORES, "datamodules/decoding", "datamodules/sources"),
        "datamodules/clips/frame_by_frame.py",
    ),
    "datamodules/timing": (*ALL_DATA, CORES, "datamodules/loading", "datamodules/making"),
    "datamodules/video.py": (*ALL_DATA, "datamodules/loading"),
    "pretrain/errors.py": (),
    "pretrain/parser.py": (),
    "pretrain/plots": (STORAGE, LETTERING),
    "pretrain/learning": MODELS,
    "pretrain/objectives": (*MODELS, "pretrain/learning", "datamodules/sources/annotated/classes.py"),
    "pretrain/metrics": (
        *MODELS,
        *(STORAGE, "datamodules/sources/annotated/classes.py"),
        *("pretrain/learning", "pretrain/plots"),
    ),
    "pretrain/metrics/vbench": (
        *(*MODELS, STORAGE, "datamodules/decoding"),
        *("pretrain/learning", "pretrain/metrics/bootstrap.py"),
    ),
    "pretrain/vbench": (
        *(STORAGE, "datamodules/decoding", "pretrain/plots"),
        *("pretrain/metrics/bootstrap.py", "pretrain/metrics/vbench"),
    ),
    "pretrain/engine": (
        *("models", "models/convert", STORAGE),
        *("pretrain/parser.py", "pretrain/learning", "pretrain/plots"),
    ),
    "pretrain/export": (*MODELS, STORAGE, "pretrain/learning", "pretrain/objectives", "pretrain/engine"),
    "pretrain/features": (
        *MODELS,
        "datamodules",
        *("pretrain/plots", "pretrain/learning", "pretrain/objectives", "pretrain/metrics", "pretrain/engine"),
        "pretrain/export",
    ),
    "pretrain/generation": (
        *MODELS,
        *(STORAGE, "datamodules/decoding", "datamodules/sources/annotated/classes.py"),
        *("pretrain/plots", "pretrain/learning", "pretrain/objectives", "pretrain/engine", "pretrain/export"),
    ),
    "pretrain/chat": (
        *MODELS,
        *(STORAGE, "datamodules/decoding", "datamodules/clips", "datamodules/making"),
        *("pretrain/learning", "pretrain/objectives", "pretrain/export"),
    ),
    "pretrain/questions": (
        *MODELS,
        *ALL_DATA,
        "datamodules/loading",
        *("pretrain/plots", "pretrain/learning", "pretrain/objectives", "pretrain/metrics", "pretrain/chat"),
    ),
    "pretrain/assistant": (
        *(*MODELS, *ALL_DATA, "datamodules/making", "pretrain/learning", "pretrain/objectives", "pretrain/export"),
        *("pretrain/features", "pretrain/generation", "pretrain/chat"),
    ),
    "pretrain/plan": (
        *MODELS,
        *(STORAGE, "datamodules/loading/defaults.py", "pretrain/parser.py"),
        *("pretrain/plots", "pretrain/learning", "pretrain/objectives", "pretrain/engine", "pretrain/export"),
    ),
    "pretrain/studies": ("models", "datamodules", "pretrain"),
    "pretrain/short_names.py": (
        *("datamodules", "pretrain/objectives", "pretrain/metrics", "pretrain/engine", "pretrain/export"),
        *("pretrain/features", "pretrain/generation", "pretrain/questions"),
    ),
    "pretrain/cli.py": (
        *("models", "datamodules"),
        *("pretrain/plots", "pretrain/learning", "pretrain/objectives", "pretrain/metrics", "pretrain/engine"),
        *("pretrain/export", "pretrain/features", "pretrain/generation", "pretrain/chat", "pretrain/questions"),
        *("pretrain/plan", "pretrain/short_names.py", "pretrain/parser.py"),
    ),
    "pretrain/help.py": ("pretrain/errors.py", "pretrain/cli.py"),
}
# What a whole package shows of its rooms: it may name all of them, and is not part of the order.
DOORS = {"models/__init__.py", "datamodules/__init__.py", "pretrain/__init__.py", "pretrain/__main__.py"}
PACKAGES = ("models", "datamodules", "pretrain")
BARRED = {"models": ("lightning", "torch.distributed", "tools"), "datamodules": ("tools",), "pretrain": ("tools",)}
HEAVY = (
    *(
        "transformers",
        "diffusers",
        "peft",
        "deepspeed",
        "flash_attn",
        "open_clip",
        "torchcodec",
        "decord",
        "av",
        "cv2",
        "webdataset",
    ),
    *("scenedetect", "pyarrow", "sklearn", "pebble"),
)
# These are imported where they are used themselves; the last four are only copied, beside exported weights.
LAZY = {
    "datamodules/decoding/avi_index.py",
    "datamodules/decoding/containers.py",
    "datamodules/decoding/display_matrix.py",
    "datamodules/decoding/mkv_index.py",
    "datamodules/decoding/mp4_fragments.py",
    "datamodules/decoding/mp4_index.py",
    "datamodules/decoding/pyav.py",
    "datamodules/decoding/rgb.py",
    "datamodules/making/clip_writer.py",
    "datamodules/making/deinterlace.py",
    "datamodules/making/encode.py",
    "datamodules/making/frames.py",
    "datamodules/making/tone_map.py",
    "datamodules/timing/bare_decoder.py",
    "models/convert/modeling_video.py",
    "models/convert/modeling_videochat.py",
    "models/convert/processing_videochat.py",
    "models/convert/modeling_videovit.py",
    "models/convert/modeling_viclip.py",
    "models/convert/modeling_lavie.py",
    "models/convert/pipeline_lavie.py",
    "models/convert/processing_video.py",
}
FILES = [str(path.relative_to(ROOT)) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@cache
def imports(file: str, top_only: bool = False) -> frozenset[str]:
    """Dotted names that a file imports; with `top_only`, those that importing it imports."""
    tree = ast.parse((ROOT / file).read_text())
    found = []
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return frozenset(found)


def own_imports(file: str) -> set[str]:
    """The project's files that a file imports; `from a import b` is a's file b if there is one, else a's own."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in inner if file_of(name)}
            names = [*known, *([node.module] if known != inner else [])]
        found |= {file_of(name) for name in names}
    return found - {file, None}


def file_of(module: str) -> str | None:
    """The project's file that a dotted name stands for."""
    stem = module.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in FILES), None)


def within(path: str, place: str) -> bool:
    return path == place or path.startswith(place + "/")


def room_of(file: str) -> str | None:
    return max((room for room in ROOMS if within(file, room)), key=len, default=None)


def may_import(room: str, file: str) -> bool:
    """Whether a room's table names a file: its own, the file itself, its room, or a whole package."""
    other = room_of(file)
    return other == room or file in ROOMS[room] or other in ROOMS[room] or file.partition("/")[0] in ROOMS[room]


def barred(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("file", FILES)
def test_each_file_lies_in_a_room_and_imports_what_its_room_may(file: str) -> None:
    if file in DOORS:
        return
    room = room_of(file)
    assert room is not None, f"{file} lies beside the rooms: move it into one, or name a new room in this file"
    assert room.endswith(".py") or room == "models" or "/" in room
    wrong = sorted(other for other in own_imports(file) if other not in DOORS and not may_import(room, other))
    assert not wrong, f"{file} imports {wrong[0]}, which {room} must not know: see the table of rooms"
    outside = [name for name in imports(file) if barred(name, BARRED[file.partition("/")[0]])]
    assert not outside, f"{file} imports {outside[0]}"


def test_no_room_is_named_that_is_not_there() -> None:
    named = {place for allowed in ROOMS.values() for place in allowed}
    assert not [place for place in named | set(ROOMS) if not (ROOT / place).exists()]


def test_no_files_import_in_a_circle() -> None:
    left = {file: own_imports(file) for file in FILES if file not in DOORS}
    while free := [file for file, others in left.items() if not others & left.keys()]:
        left = {file: others for file, others in left.items() if file not in free}
    assert not left, f"a circle of imports among {sorted(left)}"


def test_rooms_import_in_one_direction() -> None:
    """Each room's rooms stand before it in the table, so that the table reads from the ground up."""
    order = list(ROOMS)
    for room, allowed in ROOMS.items():
        above = [other for other in allowed if other in order and order.index(other) > order.index(room)]
        assert not above, f"{room} imports {above[0]}, which stands above it"


def purpose(room: str) -> str:
    """What a room or a file says of itself in its first line."""
    file = ROOT / room if room.endswith(".py") else ROOT / room / "__init__.py"
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


def markdown() -> str:
    """The table as CONTRIBUTING.md prints it."""
    lines = ["| room | purpose | may import |", "| --- | --- | --- |"]
    for room, allowed in ROOMS.items():
        place = f"`{room}`" if room.endswith(".py") else f"`{room}/`"
        others = ", ".join(f"`{other}`" for other in allowed) or "nothing of ours"
        lines.append(f"| {place} | {purpose(room)} | {others} |")
    return "\n".join(lines)


def test_contributing_prints_the_table() -> None:
    assert markdown() in (ROOT / "CONTRIBUTING.md").read_text(), f"CONTRIBUTING.md should hold:\n{markdown()}"


@pytest.mark.parametrize("file", [file for file in FILES if file not in LAZY])
def test_heavy_packages_are_imported_where_they_are_used(file: str) -> None:
    wrong = [name for name in imports(file, top_only=True) if barred(name, HEAVY)]
    assert not wrong, f"{file} imports {wrong[0]} at the top"


@pytest.mark.parametrize("file", FILES)
def test_files_say_what_they_are(file: str) -> None:
    assert ast.get_docstring(ast.parse((ROOT / file).read_text())), f"{file} does not open with what it is"


def test_the_base_objective_names_no_method() -> None:
    methods = {p.stem for p in (ROOT / "pretrain/objectives").glob("*.py")} - {"__init__", "objective"}
    named = imports("pretrain/objectives/objective.py") | imports("pretrain/cli.py")
    assert not [name for name in named if name.rpartition(".")[2] in methods]


def test_methods_only_add_what_they_may() -> None:
    """The base class is closed: besides names of its own, a method defines only what `free` lists."""
    import lightning.pytorch as pl

    from pretrain import objectives

    free = {"__init__", "forward", "predict", "losses_from_outputs", "token_encoder", "on_host", "head_rows_to_load"}
    free |= {"__doc__", "__module__"}
    for name in objectives.__all__:
        method = getattr(objectives, name)
        if method is not objectives.Objective:
            assert method.__bases__ == (objectives.Objective,)
            taken = set(vars(method)) & (set(dir(objectives.Objective)) | set(dir(pl.LightningModule)))
            hidden = {n for n in taken if n.startswith("_")}
            assert taken - hidden <= free, f"{name} overrides {taken - hidden - free}"


@pytest.mark.slow
def test_all_of_help_knows_no_heavy_package() -> None:
    code = (
        "import sys\nimport lightning.pytorch.cli\nbefore = set(sys.modules)\nfrom pretrain.cli import main\n"
        "try: main(['fit', '--help'])\nexcept SystemExit: pass\n"
        f"heavy = [n for n in {HEAVY!r} if n in sys.modules and n not in before]\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--data" in done.stdout and "--trainer.max_steps" in done.stdout
