"""`python -m pretrain show`: a page of what a step of a run sees: names, frames and crops, masks, labels, tokens."""

import base64
import html
import io
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.utilities.exceptions import _TunerExitException
from PIL import Image
from torch import Tensor

from datamodules.storage.whole_files import whole_file
from pretrain.learning.masking import Mask
from pretrain.learning.randomness import RandomKey
from pretrain.parser import Parser
from pretrain.plots.contact_sheet import contact_sheet

_STYLE = "body{font:14px sans-serif;margin:2em}img{max-width:100%}.t{background:#eee;margin:1px;padding:0 3px}"
_STYLE += ".m{background:#c33;color:#fff}section{margin-bottom:2em}"
_LATENT_PIXELS = 8  # a side of a latent's pixel on the page


def main(args: list[str], run: Callable[[list[str]], None], settings_of: Callable[[list[str]], dict[str, Any]]) -> None:
    """The command; see `--help`.

    Args:
        args: arguments after `show`.
        run: runs a command of the command line.
        settings_of: resolves a recipe's arguments to the settings that `fit` would use.
    """
    parser = Parser(prog="python -m pretrain show", description=__doc__)
    parser.add_argument("--step", type=int, required=True, help="so many optimiser steps before it")
    parser.add_argument("--videos", type=int, default=4, help="shown of the step's first ones (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("step.html"), help="(default %(default)s)")
    parser.epilog = "All else is as in `fit`. No weights are read, unless --weights names some."
    options, rest = parser.parse_known_args(args)
    batch = settings_of(rest)["data"]["init_args"]["global_batch"]
    videos = max(n for n in range(1, max(1, min(options.videos, batch)) + 1) if batch % n == 0)
    show = {"step": options.step, "out": str(options.out)}
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "callbacks": [{"class_path": "pretrain.engine.show.ShowStep", "init_args": show}],
            **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "devices": 1},
            **{"enable_model_summary": False, "limit_val_batches": 0, "num_sanity_val_steps": 0},
            **{"default_root_dir": folder, "precision": "32-true", "strategy": "auto", "num_nodes": 1},
        }
        sections = {"trainer": settings, "data": {"init_args": {"micro_batch": videos}}}
        if not any(word.startswith(("--model.weights", "--model.init_args.weights")) for word in rest):
            sections["model"] = {"init_args": {"weights": None}}
        fragment = Path(folder) / "show.yaml"
        fragment.write_text(yaml.safe_dump(sections))
        run(["fit", *rest, "-c", str(fragment)])
    print(f"{options.out}: the first {videos} of the {batch} videos of step {options.step}")


class ShowStep(pl.Callback):
    """Writes the page of a step's first micro-batch, and ends the run before it trains.

    The order of samples, crops and masks is a function of the step: no step before it is taken.

    Args:
        step: so many optimiser steps before it.
        out: the page, an HTML file without references to others.
    """

    def __init__(self, step: int, out: str) -> None:
        self.step, self.out = step, Path(out)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        taken = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        taken.ready = taken.completed = self.step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        objective: Any = pl_module
        objective.random_key = RandomKey("train", self.step, 0, trainer.accumulate_grad_batches)
        torch.manual_seed(objective.derive_seed(0, objective.global_rank))
        masks, tokens = _record(objective)
        levels = _record_noise(objective)
        with torch.no_grad():
            losses = objective(batch)
        title = f"step {self.step}, " + ", ".join(f"{name} {float(loss):.4g}" for name, loss in losses.items())
        sections = [_section(objective, batch, row, masks, tokens, levels) for row in range(len(batch["name"]))]
        with whole_file(self.out) as file:
            file.write(
                f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
                f"<h1>{html.escape(title)}</h1>{''.join(sections)}"
            )
        raise _TunerExitException  # Lightning's own way out of a run before it trains


class Recorder(Mask):
    """A mask that keeps the indices that it returns."""

    def __init__(self, mask: Mask) -> None:
        self.mask, self.even, self.found = mask, mask.even, torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mask, name)

    def width(self, grid: tuple[int, int, int]) -> int:
        return self.mask.width(grid)

    def __call__(self, noise: Tensor, grid: tuple[int, int, int], attention: Tensor | None = None) -> Tensor:
        self.found = self.mask(noise, grid, attention)
        return self.found


def _record(objective: Any) -> tuple[dict[str, Recorder], list[Tensor]]:
    """Recorders in place of the masks of an objective, by their names, and a list that gets masked tokens of texts."""
    masks = {name: Recorder(part) for name, part in vars(objective).items() if isinstance(part, Mask)}
    for name, recorder in masks.items():
        setattr(objective, name, recorder)
    tokens: list[Tensor] = []
    choose = getattr(objective, "mask_tokens", None)
    if choose is not None:

        def kept(*given: Any) -> Any:
            made = choose(*given)
            found = made[1] >= 0 if isinstance(made, tuple) else made  # labels of masked tokens, or whether masked
            if found is not None:
                tokens.append(found.cpu())
            return made

        objective.mask_tokens = kept
    return masks, tokens


def _record_noise(objective: Any) -> dict[str, Any]:
    """What a denoiser draws for its step: the time steps, texts that are dropped, and the noise of a condition."""
    levels: dict[str, Any] = {}
    for method, name in (("errors", "timestep"), ("dropped_texts", "dropped"), ("conditions", "condition")):
        call = getattr(objective, method, None)
        if call is None:
            return {}

        def kept(*given: Any, call: Any = call, name: str = name) -> Any:
            made = call(*given)
            levels[name] = given[2] if name == "timestep" else made
            return made

        setattr(objective, method, kept)
    return levels


def _section(
    objective: Any,
    batch: Any,
    row: int,
    masks: dict[str, Recorder],
    masked: list[Tensor],
    levels: dict[str, Any] | None = None,
) -> str:
    """What the step sees of one row of the batch."""
    lines = [f"<h2>{html.escape(str(batch['name'][row]))}</h2>"]
    if "label" in batch:
        lines.append(f"<p>label {html.escape(str(batch['label'][row].tolist()))}</p>")
    if isinstance(batch.get("text"), list):
        lines.append(f"<p>{html.escape(str(batch['text'][row]))}</p>")
    if levels:
        lines += _noise_levels(objective, batch, row, levels)
    elif "ids" in batch:
        hidden = masked[-1][row].tolist() if masked else []
        names = _names(objective, batch["ids"][row].tolist())
        hidden += [False] * (len(names) - len(hidden))
        lines.append(f"<p>tokens, masked ones in red: {_spans(names, hidden[: len(names)])}</p>")
    if "chat" in batch:
        lines += _chat(objective.row_encoder, batch["chat"][row])
    for field in ("latents", "text_states"):
        if field in batch:
            lines.append(f"<p>{field}: {html.escape(_shape(batch[field][row]))}</p>")
    if isinstance(batch.get("video"), Tensor):
        video = batch["video"][row : row + 1].cpu()
        video = video.float() / 255 if video.dtype == torch.uint8 else _stretched(video.float())
        kinds = {"frames": video}
        for name, recorder in masks.items():
            if len(recorder.found) > row:
                index = recorder.found[row].cpu()
                kinds[name] = _only(video, index, objective.encoder)
                lines.append(f"<p>{name}: {len(index)} tokens</p>")
        lines.append(_picture(kinds))
    if "images" in batch:
        lines.append(_picture({"images": batch["images"][row : row + 1].cpu().float() / 255}))
    if "latents" in batch:
        latents = batch["latents"][row : row + 1].cpu().float()  # [1, C, T, h, w]; of moments, means come first
        shown = torch.cat((latents, *[latents[:, :1]] * 2), dim=1)[:, :3] if latents.shape[1] < 3 else latents[:, :3]
        large = _stretched(shown).repeat_interleave(_LATENT_PIXELS, 3).repeat_interleave(_LATENT_PIXELS, 4)
        lines.append(_picture({"latents": large}))
    return f"<section>{''.join(lines)}</section>"


def _noise_levels(objective: Any, batch: Any, row: int, levels: dict[str, Any]) -> list[str]:
    """Time step and texts of a row of a denoiser, and the noise of its condition."""
    lines = [f"<p>time step {int(levels['timestep'][row])} of {len(objective.alpha_bar)}</p>"]
    given, level = levels["condition"] or (None, None)
    if given is not None:
        noise = "" if level is None else f", noised to level {int(level[row])}"
        lines.append(f"<p>condition {tuple(given.shape[1:])}{noise}</p>")
    dropped = levels["dropped"][row].tolist()
    if "text_states" not in batch:
        ids = objective.text_ids(batch, len(dropped) - 1)[row, :, :-1]  # without the place that only tells what is cut
        for number, (tokens, drop) in enumerate(zip(ids.tolist(), dropped, strict=True)):
            spans = _spans(objective.prompts.tokenizer.pieces(tokens), [drop] * len(tokens))
            read = f"dropped, {html.escape(repr(objective.null_text))} is read instead" if drop else "tokens"
            lines.append(f"<p>{f'image {number}, ' if number else ''}{read}: {spans}</p>")
    elif dropped[0]:
        lines.append(f"<p>the text is dropped, {html.escape(repr(objective.null_text))} is read instead</p>")
    return lines


def _picture(kinds: dict[str, Tensor]) -> str:
    """Clips `[1, 3, T, H, W]` in [0, 1] by what they are, as a picture in the page."""
    stream = io.BytesIO()
    Image.fromarray(contact_sheet(kinds, [""], next(iter(kinds.values())).shape[2])).save(stream, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'


def _spans(names: list[str], red: list[bool]) -> str:
    pairs = zip(names, red, strict=True)
    return "".join(f'<span class="t{" m" * marked}">{html.escape(name)}</span>' for name, marked in pairs)


def _chat(row_encoder: Any, row: Any) -> list[str]:
    """Tokens of a row of `ChatRows`: those that are learnt, places of visual tokens, and what the Q-Former reads."""
    places = set(row["slots"].tolist())
    pieces = row_encoder.tokenizer.convert_ids_to_tokens(row["ids"].tolist())
    names, learnt = [], []
    marked = enumerate(zip(pieces, (row["labels"] >= 0).tolist(), strict=True))
    for visual, group in itertools.groupby(marked, key=lambda item: item[0] in places):
        tokens = [token for _, token in group]
        names += [f"[{len(tokens)} visual tokens]"] if visual else [piece for piece, _ in tokens]
        learnt += [False] if visual else [red for _, red in tokens]
    lines = [f"<p>conversation, learnt tokens in red ({int(row['cut'])} are cut): {_spans(names, learnt)}</p>"]
    if "reads" in row:
        pieces = row_encoder.reader.pieces(row["reads"].tolist())
        lines.append(f"<p>read by the Q-Former: {_spans(pieces, [False] * len(pieces))}</p>")
    if "regions" in row:
        lines.append(f"<p>regions: {len(row['regions'])}</p>")
    return lines


def _only(video: Tensor, index: Tensor, encoder: Any) -> Tensor:
    """`video` `[1, 3, T, H, W]` in [0, 1], grey but for the tokens `index` `[K]`."""
    slices, (_, rows, columns) = video.shape[2] // encoder.tubelet, encoder.grid
    seen = torch.zeros(slices * rows * columns)
    seen[index] = 1
    seen = seen.view(slices, rows, columns).repeat_interleave(encoder.tubelet, 0)
    seen = seen.repeat_interleave(encoder.patch, 1).repeat_interleave(encoder.patch, 2)
    return video * seen + 0.5 * (1 - seen)


def _names(objective: Any, ids: list[int]) -> list[str]:
    """Tokens as text, where the tokenizer knows them."""
    words = getattr(objective, "words", None)
    tokenizer = getattr(words, "tokenizer", words)
    return [str(i) for i in ids] if tokenizer is None else tokenizer.pieces(ids)


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {tuple(getattr(part, 'shape', ()))}" for name, part in value.items())
    return str(tuple(getattr(value, "shape", ())))


def _stretched(video: Tensor) -> Tensor:
    return (video - video.min()) / (video.max() - video.min()).clamp(min=1e-6)
