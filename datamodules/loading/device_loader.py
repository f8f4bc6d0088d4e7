"""The loader of a device: as many processes as it has cores, and pinned memory where it is a GPU."""

from lightning.pytorch import Trainer
from torch.utils.data import Dataset

from datamodules.loading.defaults import cores_per_device
from datamodules.loading.loader import BatchNumbers, Loader


def device_loader(
    batches: Dataset,
    numbers: BatchNumbers,
    trainer: Trainer,
    workers: int | None = None,
    prefetch: int = 2,
    limit: float | None = None,
    keep: bool = False,
    pin: bool = True,
) -> Loader:
    """The batches of a dataset, as this process's device takes them.

    Args:
        batches: an item is a whole micro-batch.
        numbers: of the batches, in order.
        workers: loading processes; None: the number of cores per device, at most 16. 0: this process makes the batches.
        prefetch: batches that all workers together make ahead, see `Workers`.
        limit: time limit in seconds for each stage of one sample; None for none.
        keep: the processes stay for the next iteration.
        pin: the batches are copied to a GPU from pinned memory.
    """
    count = workers if workers is not None else cores_per_device(trainer.num_devices)
    return Loader(
        batches,
        batch_size=None,  # an item is a whole micro-batch already
        sampler=numbers,
        num_workers=count,
        prefetch_factor=prefetch if count else None,
        persistent_workers=keep and count > 0,
        pin_memory=pin and trainer.strategy.root_device.type == "cuda",
        limit=limit,
    )
