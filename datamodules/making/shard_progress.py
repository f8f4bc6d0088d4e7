"""What a tool that writes shards has done so far: a hidden folder of its settings and a report for each finished shard.

A shard is finished when its report is on disk, which is written after its tar.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.sources.tars import COLUMNS, index_of
from datamodules.storage.json_text import Damaged, json_text, read_json
from datamodules.storage.whole_files import remove_drafts, write_whole

log = logging.getLogger(__name__)


_ROW = {column: str if column == "shard" else int for column in COLUMNS}


def has_form(found: Any, kind: Any) -> bool:
    """Whether JSON is as described: a type, one of several, a list of one kind, or an object with these entries."""
    if isinstance(kind, Mapping):
        return isinstance(found, dict) and all(has_form(found.get(name), each) for name, each in kind.items())
    if isinstance(kind, list):
        return isinstance(found, list) and all(has_form(each, kind[0]) for each in found)
    if isinstance(kind, tuple):
        return any(has_form(found, each) for each in kind)
    return type(found) is kind


class ShardProgress:
    """The progress of the shards in a folder, whose lock the caller holds. Drafts of killed writers are removed.

    Args:
        folder: of the shards.
        name: of the hidden folder in it.
        kind: of the report of a shard, as `has_form` takes it; every report has the `row` of its tar besides.
    """

    def __init__(self, folder: Path, name: str, kind: dict[str, Any]) -> None:
        self.folder, self.kind = folder / name, {**kind, "row": _ROW}
        self.folder.mkdir(exist_ok=True)
        for place in (folder, self.folder):
            remove_drafts(place)

    @property
    def settings(self) -> Path:
        """The file of the settings; it is there once a run has begun."""
        return self.folder / "settings.json"

    def begin(self, settings: dict) -> None:
        """Writes the settings of this run, or checks that they are those of the interrupted run.

        Raises:
            ValueError: they are others, or cannot be read.
        """
        try:
            before = read_json(self.settings) if self.settings.exists() else settings
            if not isinstance(before, dict):
                raise Damaged(f"{self.settings} holds no settings")
        except Damaged as error:
            raise ValueError(f"{error}: delete {self.folder} to make all shards again") from None
        if changed := [key for key in {**settings, **before} if before.get(key) != settings.get(key)]:
            raise ValueError(
                f"{self.folder.parent} was begun with another {', '.join(changed)}: "
                + ", ".join(f"{key} {before.get(key)} then, {settings.get(key)} now" for key in changed)
                + ". Use the earlier settings to finish it, or choose another folder."
            )
        write_whole(self.settings, json_text(settings, indent=1))

    def finished(self, shards: int) -> dict[int, dict]:
        """The reports of the finished ones among so many shards.

        One that is damaged, or whose tar is not as it says, is left out, with a warning.
        """
        found = {}
        for s in range(shards):
            file = self._report(s)
            if file.exists():
                try:
                    found[s] = self._checked(file)
                except Damaged as error:
                    log.warning("%s: making its shard again", error)
        return found

    def _checked(self, file: Path) -> dict:
        report = read_json(file)
        if not has_form(report, self.kind):
            raise Damaged(f"{file} is no report of a shard")
        tar = self.folder.parent / report["row"]["shard"]
        whole = tar.is_file() and tar.stat().st_size == report["row"]["bytes"] and Path(index_of(str(tar))).is_file()
        if tar.parent != self.folder.parent or not whole:
            raise Damaged(f"{tar} is not there as {file} says")
        return report

    def finish(self, shard: int, report: dict) -> None:
        """Writes the report of a shard, whose tar is written."""
        write_whole(self._report(shard), json_text(report, indent=1))

    def _report(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.json"
