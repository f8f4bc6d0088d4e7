"""The budget of videos that cannot be read: each is counted and logged, and too many end the run."""

import logging

log = logging.getLogger(__name__)


class Failures:
    """Videos of a run that could not be read, by stage.

    Args:
        budget: the largest share of unreadable ones among the loaded videos of a stage.
        grace: number of unreadable videos that never end the run.
    """

    def __init__(self, budget: float, grace: int) -> None:
        self.budget, self.grace = budget, grace
        self.failed: dict[str, list[tuple[str, str]]] = {}  # names and reasons
        self.loaded: dict[str, int] = {}

    def count(self, stage: str, batch: dict) -> None:
        """Counts the videos of a batch, and takes `skipped` from it, those that could not be read; see `add_failed`."""
        skipped = batch.pop("skipped", [])
        if "window" in batch:  # the survey has counted the videos, and one has many batches
            known = {name for name, _ in self.failed.get(stage, [])}
            skipped = [(name, reason) for name, reason in skipped if name not in known]
        else:
            self.add_loaded(stage, len(set(batch["name"])))  # views share a name
        if skipped:
            self.add_failed(stage, skipped)

    def add_loaded(self, stage: str, videos: int) -> None:
        self.loaded[stage] = self.loaded.get(stage, 0) + videos

    def add_failed(self, stage: str, skipped: list[tuple[str, str]]) -> None:
        """Counts (name, reason) of videos among the loaded ones; RuntimeError if they are over the budget."""
        failed, loaded = self.failed.setdefault(stage, []), self.loaded[stage]
        for name, reason in skipped:
            failed.append((name, reason))
            log.warning("skipped %s: %s (%d unreadable of %d)", name, reason, len(failed), loaded)
        if len(failed) > max(self.grace, self.budget * loaded):
            raise RuntimeError(
                f"{len(failed)} of {loaded} videos could not be read, more than the budget of "
                f"{self.budget:.2%} (and more than {self.grace}). The last ones:\n"
                + "\n".join(f"  {name}: {reason}" for name, reason in failed[-5:])
                + "\nRepair or remove these files (tools/prepare.py checks each), or raise "
                "data.failure_budget."
            )
