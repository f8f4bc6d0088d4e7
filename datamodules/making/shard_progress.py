"""What a tool that writes shards has done so far: a hidden folder of its settings and a report for each finished shard.

A shard is finished when its report is on disk, which is written after its tar.
"""

import logging
from pathlib import Path

from datamodules.storage.json_text import Damaged, json_text, read_json
from datamodules.storage.whole_files import remove_drafts, write_whole

log = logging.getLogger(__name__)


class ShardProgress:
    """The progress of the shards in a folder, whose lock the caller holds. Drafts of killed writers are removed.

    Args:
        folder: of the shards.
        name: of the hidden folder in it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
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
        except Damaged as error:
            raise ValueError(f"{error}: delete {self.folder} to make all shards again") from None
        if changed := [key for key in settings if before.get(key) != settings[key]]:
            raise ValueError(
                f"{self.folder.parent} was begun with another {', '.join(changed)}: "
                + ", ".join(f"{key} {before.get(key)} then, {settings[key]} now" for key in changed)
                + ". Use the earlier settings to finish it, or choose another folder."
            )
        write_whole(self.settings, json_text(settings, indent=1))

    def finished(self, shards: int) -> dict[int, dict]:
        """The reports of the finished ones among so many shards; one that is damaged is left out, with a warning."""
        found = {}
        for s in range(shards):
            file = self._report(s)
            if file.exists():
                try:
                    found[s] = read_json(file)
                except Damaged as error:
                    log.warning("%s: making its shard again", error)
        return found

    def finish(self, shard: int, report: dict) -> None:
        """Writes the report of a shard, whose tar is written."""
        write_whole(self._report(shard), json_text(report, indent=1))

    def _report(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.json"
