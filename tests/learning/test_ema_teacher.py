"""An EMA teacher follows its student by its decay after each step, is saved, resumed and never optimised."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import models
from pretrain.learning.ema_teacher import EMATeacher, constant_decay, cosine_decay
from pretrain.learning.optim import Optim
from pretrain.objectives.objective import Objective

DECAY = cosine_decay(0.5, 1.0, 6)


class Distil(Objective):
    """A student learns the features that its own average has of other noise."""

    def __init__(self, **base: Any) -> None:
        super().__init__(optim=Optim(lr=1e-2, warmup_steps=0), global_batch=2, **base)
        torch.manual_seed(0)
        self.encoder = models.VideoViT(16, 1, 2, 32, patch=8, frames=2, size=16)
        self.norm = nn.BatchNorm1d(16)
        self.teacher = EMATeacher(self.encoder, DECAY)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        video = self.normalize(batch["video"])
        return {"distance": (self.encoder(video) - self.teacher(video.flip(4)) - 1).square().mean()}


class Record(pl.Callback):
    """The student's and the teacher's weights after each step, and a checkpoint of the second."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.steps: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.steps.append((flat(pl_module.encoder), flat(pl_module.teacher.model)))
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.checkpoint)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def trained(folder: Path, resume: Path | None = None) -> tuple[Distil, Record]:
    video = torch.randint(0, 256, (2, 3, 2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    record = Record(folder / "step.ckpt")
    options: Any = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=4, logger=False, callbacks=[record], default_root_dir=folder, **options
    )
    data = DataLoader([{"video": video, "name": ["a", "b"]}], batch_size=None)  # pyrefly: ignore[bad-argument-type]
    objective = Distil()
    trainer.fit(objective, data, ckpt_path=resume, weights_only=False)
    return objective, record


def test_it_follows_by_its_decay_and_resumes(tmp_path: Path) -> None:
    start = flat(Distil().encoder)
    whole, record = trained(tmp_path)
    expected = start
    for step, (student, teacher) in enumerate(record.steps):
        decay = DECAY(step)
        expected = decay * expected + (1 - decay) * student
        assert torch.allclose(teacher, expected, atol=1e-6) and not torch.equal(teacher, student)
    assert int(whole.teacher.updates) == 4 and not torch.allclose(expected, start, atol=1e-3)

    resumed, record = trained(tmp_path, tmp_path / "step.ckpt")
    assert len(record.steps) == 2 and int(resumed.teacher.updates) == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_it_is_in_no_optimiser_and_in_eval_mode() -> None:
    m = Distil().train()
    assert not any(module.training for module in m.teacher.modules()) and m.encoder.training
    optimised = {id(p) for group in m.optim.build(m).param_groups for p in group["params"]}
    assert optimised == {id(p) for p in [*m.encoder.parameters(), *m.norm.parameters()]}
    video: Any = torch.zeros(2, 3, 2, 16, 16, dtype=torch.uint8)
    m({"video": video})["distance"].backward()
    assert all(p.grad is None for p in m.teacher.parameters())


def test_it_starts_from_the_loaded_student_and_takes_its_buffers() -> None:
    student = nn.BatchNorm1d(3)
    teacher = EMATeacher(student, constant_decay(0.75))
    nn.init.constant_(student.weight, 5.0)  # as weights that are read when a run starts
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    teacher.follow(optimizer)
    assert torch.equal(teacher.model.weight, torch.full((3,), 5.0))
    student.weight.grad = torch.ones(3)
    student.running_mean.fill_(2.0)
    optimizer.step()
    assert torch.allclose(teacher.model.weight, torch.full((3,), 0.75 * 5 + 0.25 * 4))
    assert torch.equal(teacher.model.running_mean, student.running_mean) and int(teacher.updates) == 1


def test_decays() -> None:
    assert [DECAY(step) for step in (0, 3, 6, 9)] == pytest.approx([0.5, 0.75, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"is from 0 \(a copy\) to 1 \(fixed\), not 1.5"):
        constant_decay(1.5)
    with pytest.raises(ValueError, match="at least 1 step"):
        cosine_decay(0.9, 1.0, 0)
