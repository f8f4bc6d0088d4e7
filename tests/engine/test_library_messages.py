"""Known messages of libraries are not shown by our commands; all others are."""

import logging
import warnings

import pytest

from pretrain.engine.library_messages import without_known_messages
from pretrain.engine.model_table import ModelTable
from pretrain.engine.trainer_settings import complete

SUMMARY = "\n  | Name\n5.5 M     Trainable params\n0         Total Flops"


def test_only_known_messages_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    for within in (True, False):
        caplog.clear()
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            if within:
                with without_known_messages():
                    _say(log)
            else:
                _say(log)
        known = ["💡 Tip: For seamless cloud logging, try another product"] if not within else []
        assert [record.getMessage() for record in caplog.records] == [
            *known,
            "GPU available",
            "💡 Tip: For seamless cloud",
        ]
        assert [str(each.message)[:12] for each in shown] == ([] if within else ["`isinstance("]) + ["a user's own"]


def _say(log: logging.Logger) -> None:
    log.info("💡 Tip: For seamless cloud logging, try another product")
    log.info("GPU available")
    log.warning("💡 Tip: For seamless cloud")  # no warning is left out
    warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use another", FutureWarning, stacklevel=1)
    warnings.warn("a user's own", FutureWarning, stacklevel=1)


def test_the_table_of_a_model_has_no_flops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (table,) = complete({"enable_progress_bar": False}, "validate", "run")
    assert isinstance(table, ModelTable) and not complete({"enable_model_summary": False}, "validate", "run")[1:]
    columns = [("", ["0"]), ("Name", ["encoder"]), ("FLOPs", ["0"])]
    with without_known_messages():
        table.summarize(columns, 3, 3, 0.1, {"train": 1, "eval": 0}, 0)
    assert "encoder" in caplog.text and "flops" not in caplog.text.lower()


def test_a_summary_of_a_model_has_no_flops_that_were_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = logging.getLogger("lightning.pytorch.callbacks.model_summary")
    with without_known_messages():
        log.info(SUMMARY)
        log.info(SUMMARY.replace("0    ", "2.6 M"))
    assert caplog.records[0].getMessage().endswith("Trainable params")
    assert caplog.records[1].getMessage().endswith("2.6 M     Total Flops")
