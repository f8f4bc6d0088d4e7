"""The table of a model's parts and parameters that Lightning prints, without FLOPs, which nobody has counted then."""

from typing import Any

from lightning.pytorch.callbacks import ModelSummary


class ModelTable(ModelSummary):
    """Lightning's plain table, also where `rich` is installed. Its last line, the total of FLOPs, is left out by
    `pretrain.engine.library_messages`."""

    @staticmethod
    def summarize(summary_data: list[tuple[str, list[str]]], *args: Any, **options: Any) -> None:
        """Logs the table; see `ModelSummary.summarize`."""
        ModelSummary.summarize([column for column in summary_data if column[0] != "FLOPs"], *args, **options)
