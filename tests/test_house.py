"""The house stands: imports run one way, heavy packages stay out of the hall, and the command answers quickly."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "models": ("lightning", "pretrain", "datamodules", "tools", "torch.distributed"),
    "datamodules": ("models", "pretrain", "tools"),
    "pretrain": ("tools",),
}
HEAVY = (
    "transformers",
    "deepspeed",
    "flash_attn",
    "open_clip",
    "torchcodec",
    "decord",
    "av",
    "cv2",
    "webdataset",
    "scenedetect",
    "pyarrow",
)
FILES = [path for room in FORBIDDEN for path in sorted((ROOT / room).rglob("*.py"))]


def imports(tree: ast.AST, top_only: bool = False) -> list[str]:
    """Dotted names that a module imports; with `top_only`, those that importing it imports."""
    nodes = ast.walk(tree) if not top_only else tree.body
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    wrong = [n for n in imports(ast.parse(path.read_text())) if any(within(n, f) for f in FORBIDDEN[room])]
    assert not wrong, f"{path.name} imports {wrong[0]}, which {room} must not know"


# These are imported where they are used themselves; the last two are only copied, beside exported weights.
LAZY = (
    "datamodules/pyav.py",
    "datamodules/encode.py",
    "models/convert/modeling_videovit.py",
    "models/convert/modeling_viclip.py",
)


@pytest.mark.parametrize(
    "path", [p for p in FILES if not str(p).endswith(LAZY)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    wrong = [n for n in imports(ast.parse(path.read_text()), top_only=True) if any(within(n, h) for h in HEAVY)]
    assert not wrong, f"{path.name} imports {wrong[0]} at the top"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.name} does not open with what it is"


def test_the_base_objective_names_no_method() -> None:
    methods = {p.stem for p in (ROOT / "pretrain/objectives").glob("*.py")} - {"__init__", "objective"}
    named = imports(ast.parse((ROOT / "pretrain/objectives/objective.py").read_text()))
    named += imports(ast.parse((ROOT / "pretrain/cli.py").read_text()))
    assert not [n for n in named if n.rpartition(".")[2] in methods]


def test_methods_only_add_what_they_may() -> None:
    """The base class is closed: a method has `__init__`, `forward`, `predict`, `after_step` and names of its own."""
    import lightning.pytorch as pl

    from pretrain import objectives

    free = {"__init__", "forward", "predict", "after_step", "__doc__", "__module__"}
    for name in objectives.__all__:
        method = getattr(objectives, name)
        if method is not objectives.Objective:
            assert method.__bases__ == (objectives.Objective,)
            taken = set(vars(method)) & (set(dir(objectives.Objective)) | set(dir(pl.LightningModule)))
            hidden = {n for n in taken if n.startswith("_")}
            assert taken - hidden <= free, f"{name} overrides {taken - hidden - free}"


def test_help_is_quick_and_knows_no_heavy_package() -> None:
    code = (
        "import sys\nimport lightning.pytorch.cli\nbefore = set(sys.modules)\nfrom pretrain.cli import main\n"
        "try: main(['fit', '--help'])\nexcept SystemExit: pass\n"
        f"heavy = [n for n in {HEAVY!r} if n in sys.modules and n not in before]\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--data" in done.stdout and "--trainer.max_steps" in done.stdout
