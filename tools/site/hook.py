"""Hooks of mkdocs: pages made of files outside docs/, and links to files of the repository as their paths."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
MADE = {"recipes.md": "recipes/README.md", "security.md": "SECURITY.md", "changes.md": "CHANGELOG.md"}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of `MADE`."""
    for page, source in MADE.items():
        files.append(File.generated(config, page, content=_read(source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files outside docs/ become their paths; one that does not exist stops the build."""
    folder = ROOT / "docs" / Path(page.file.src_uri).parent
    return _LINK.sub(lambda found: _link(found, folder, page.file.src_uri), markdown)


def _read(source: str) -> str:
    """A file of the repository as if it lay in docs/: its links lead where they did."""
    folder = (ROOT / source).parent

    def moved(found: re.Match[str]) -> str:
        target, hash_, anchor = found[3].partition("#")
        if not target or "://" in target:
            return found[0]
        path = (folder / target).resolve()
        relative = path.relative_to(ROOT)
        inside = relative.relative_to("docs") if relative.parts[0] == "docs" else Path("..", relative)
        return f"{found[1]}[{found[2]}]({inside.as_posix()}{hash_}{anchor})"

    return _LINK.sub(moved, (ROOT / source).read_text(encoding="utf-8"))


def _link(found: re.Match[str], folder: Path, page: str) -> str:
    target, _, anchor = found[3].partition("#")
    if not target or "://" in target or target.startswith("mailto:"):
        return found[0]
    path = (folder / target).resolve()
    source = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else None
    made = next((name for name, file in MADE.items() if file == source), None)
    if made is not None:
        up = "../" * page.count("/")
        return f"{found[1]}[{found[2]}]({up}{made}{'#' + anchor if anchor else ''})"
    if path.is_relative_to(ROOT / "docs"):
        return found[0]  # mkdocs checks it
    if source is None or not path.exists():
        raise PluginError(f"{page}: no file at {found[3]}")
    words = found[2].strip("`")
    return f"`{source}`" if words in (source, path.name, path.stem) else f"{found[2]} (`{source}`)"
