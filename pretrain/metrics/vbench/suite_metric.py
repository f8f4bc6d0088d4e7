"""VBench as a recipe names it: dimensions by name, weights by their folder, prompts by their file."""

from pathlib import Path

from pretrain.metrics.vbench.dimensions import build_scorers
from pretrain.metrics.vbench.metric import VBench
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.plan import check_dimensions
from pretrain.metrics.vbench.prompts import by_text, read_suite


class SuiteScores(VBench):
    """`VBench` of the dimensions whose models are VBench's own and ours to build.

    Args:
        dimensions: names; those that need a detector, a captioner or interpolation are refused.
        fps: of the clips, where the batch has no `fps`.
        weights_dir: see `weights.locate`.
        suite: a VBench_full_info.json with what prompts ask for (appearance style needs it); None: no such dimension.
        device: of the models; `cuda` is each rank's own GPU.
        video: name of the model's output or the batch's entry with the clips.

    Raises:
        FileNotFoundError: weights or the suite are not there.
        ValueError: an unknown dimension, one that needs an interface, or a device that is not there.
    """

    def __init__(
        self,
        dimensions: list[str],
        fps: float | None = None,
        weights_dir: str | Path | None = None,
        suite: str | Path | None = None,
        device: str = "cpu",
        video: str = "video",
    ) -> None:
        scorers = build_scorers(check_dimensions(dimensions), Models(weights_dir, device=device))
        super().__init__(scorers, by_text(read_suite(suite)) if suite else None, fps, video)
