"""Retrieval: videos found by their captions, and captions by their videos.

Letters in shapes: M rows, V videos, n captions, D channels, k candidates.
"""

import hashlib

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from pretrain.metrics.ranking import by_video, dual_softmax, ranks, recalls, rerank, top
from pretrain.metrics.text_metric import Asking, averages, captions_of, require_nonempty
from pretrain.plots.result_grid import Row, Tile, result_grid

_PAIRS = 64  # that are matched together
_THUMBNAILS, _PIXELS, _SHOWN = 2048, 96, 5  # videos a rank whose picture is kept, its side; 57 MB at most


class Retrieval(Asking):
    """Recall and rank of text to video (`t2v/R1`, `R5`, `R10` in percent, `MdR`, `MnR`) and of video to text (`v2t/`).

    A video is a name: rows of one name are views of it, whose features are averaged, so that its similarities are the
    means of theirs. Each of its captions is a query that asks for it; of those that answer to it the best counts.
    Whatever is as similar as the right answer counts as better (see `ranks`). Videos and captions are put in order of
    their names and words, and compared in float64: neither the batch size nor the number of ranks changes a rank.

    Memory: D numbers a video and D a caption on each rank, and a few matrices of captions x videos, on the CPU. With
    `rerank`, each rank also keeps the tokens of its own videos, on the CPU.

    Args:
        dual_softmax: also report, under `dsl/`, similarities times their softmax over the queries. This looks at all
            queries of the test set at once.
        rerank: also report, under `rerank/`, the order that the model's matching score gives the first so many
            candidates of each query (128 in UMT); the others stay below in order of similarity. It needs a model with
            `match` and one that predicts `tokens`; scores of a video's views are averaged.
        by_video: also report, under `by_video/`, video to text as CLIP4Clip does for several sentences a video: among
            videos, each by its best caption.
        merge_texts: captions that read the same are one, to which all their videos are right (labels for texts, as in
            Something-Something). By default each is a query of its own for the one video that it came with.
        pictures: queries that `picture` shows, with the five most similar videos of each.
        features: the name of the outputs to take.
    """

    def __init__(
        self,
        dual_softmax: bool = False,
        rerank: int = 0,
        by_video: bool = False,
        merge_texts: bool = False,
        pictures: int = 0,
        features: str = "features",
    ) -> None:
        super().__init__()
        self.dual_softmax, self.rerank, self.by_video = dual_softmax, rerank, by_video
        self.merge_texts, self.pictures, self.name = merge_texts, pictures, features
        self.asks = ("encode_text", "match") if rerank else ("encode_text",)
        for strings in ("names", "texts", "seen"):
            self.add_strings(strings)
        for state in ("features", "counts", "captions", "thumbnails"):
            self.add_state(state, [], dist_reduce_fx="cat")
        self._tokens: list[tuple[list[str], Tensor]] = []  # of this rank's videos; they never travel
        self.shown: list[Row] = []

    def reset(self) -> None:
        super().reset()
        self._tokens, self.shown = [], []

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor | list[str]]) -> None:
        rows = list(batch["name"])
        texts = dict(zip(rows, captions_of(rows, batch, "Retrieval"), strict=True))
        names, features, counts = averages(rows, outputs[self.name])
        self.put("names", names)
        self.put("texts", [text for name in names for text in texts[name]])
        self.captions.append(torch.tensor([len(texts[name]) for name in names], device=self.device, dtype=torch.long))
        self.features.append(features.float().to(self.device))
        self.counts.append(counts.float().to(self.device))
        if self.rerank:
            if "tokens" not in outputs:
                raise MisconfigurationException("rerank needs a model that predicts `tokens`; set rerank to 0 without")
            self._tokens.append((rows, outputs["tokens"].cpu()))
        if self.pictures:
            self._see(rows, batch["video"])

    def compute(self) -> dict[str, Tensor]:
        videos, texts, sim, right = self._similarities()
        results = both("", sim, sim.t(), right)
        if self.dual_softmax:
            results |= both("dsl/", dual_softmax(sim), dual_softmax(sim.t()), right)
        if self.by_video:
            found = recalls(ranks(by_video(sim.t(), right), torch.eye(len(videos), dtype=torch.bool)))
            results |= {f"by_video/v2t/{name}": value for name, value in found.items()}
        order = sim
        if self.rerank:
            scores = self._match(videos, texts, sim)
            order = rerank(sim, scores, self.rerank)
            results |= both("rerank/", order, rerank(sim.t(), scores.t(), self.rerank), right)
        if self.pictures:
            self.shown = self._show(videos, texts, sim, order, right)
        return {name: value.float().to(self.device) for name, value in results.items()}

    def _similarities(self) -> tuple[list[str], list[str], Tensor, Tensor]:
        """Names of the videos, the captions, their similarities `[n, V]`, and True where they belong together."""
        rows = self.take("names")
        require_nonempty(rows)
        videos, features, counts = averages(rows, dim_zero_cat(self.features), dim_zero_cat(self.counts))
        place = {name: i for i, name in enumerate(videos)}
        words = iter(self.take("texts"))
        pairs = set()
        for name, number in zip(rows, dim_zero_cat(self.captions).tolist(), strict=True):
            own = [next(words) for _ in range(number)]
            pairs |= {(place[name], text, own[:i].count(text)) for i, text in enumerate(own)}
        order = sorted(pairs)
        texts = sorted({text for _, text, _ in order}) if self.merge_texts else [text for _, text, _ in order]
        row = {text: i for i, text in enumerate(texts)}
        right = torch.zeros(len(texts), len(videos), dtype=torch.bool)
        for i, (video, text, _) in enumerate(order):
            right[row[text] if self.merge_texts else i, video] = True
        sim = torch.cat([(part.double() @ features.t()).float() for part in self.encode(texts).split(4096)])
        self.facts = {"videos": len(videos), "captions": len(texts), "views": int(counts.max())}
        return videos, texts, sim, right

    def _match(self, videos: list[str], texts: list[str], sim: Tensor) -> Tensor:
        """Matching scores `[n, V]` of the pairs that are to be scored, each by the rank that has the video's tokens."""
        wanted = torch.zeros(sim.shape, dtype=torch.bool).scatter_(1, top(sim, self.rerank), True)
        wanted |= torch.zeros(sim.t().shape, dtype=torch.bool).scatter_(1, top(sim.t(), self.rerank), True).t()
        place = {name: i for i, name in enumerate(videos)}
        mine = [(place[name], tokens[i]) for names, tokens in self._tokens for i, name in enumerate(names)]
        pairs = [(n, v, tokens) for v, tokens in mine for n in wanted[:, v].nonzero()[:, 0].tolist()]
        blank = self._tokens[0][1].new_zeros(1, *self._tokens[0][1].shape[1:])
        found = torch.zeros(2, *sim.shape, dtype=torch.float64)  # sums of scores, and how many views they are of
        for start in range(0, self._most(len(pairs)), _PAIRS):
            few = pairs[start : start + _PAIRS]
            tokens = torch.stack([tokens for _, _, tokens in few] or [*blank]).to(self.device)
            with torch.no_grad():
                scores = self.objective.match(tokens, [texts[n] for n, _, _ in few] or [""])[: len(few)]
            where = tuple(torch.tensor([[n, v] for n, v, _ in few], dtype=torch.long).view(-1, 2).t())
            found[0].index_put_(where, scores.double().cpu(), accumulate=True)
            found[1].index_put_(where, torch.ones(len(few), dtype=torch.float64), accumulate=True)
        if _several():
            found = found.to(self.device)
            dist.all_reduce(found)
        return (found[0] / found[1]).cpu()

    def _most(self, number: int) -> int:
        """The largest of the ranks' numbers: a model whose weights are sharded must be asked by all as often."""
        if not _several():
            return number
        most = torch.tensor(number, device=self.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most)

    # Pictures

    def picture(self) -> np.ndarray | None:
        """The queries that `pictures` asked for, each with the videos found: uint8 `[height, width, 3]`."""
        return result_grid(self.shown, _PIXELS) if self.shown else None

    def _see(self, rows: list[str], video: Tensor) -> None:
        """Keeps the middle frame of each video's first view, uint8 `[3, 96, 96]`, as long as there is room."""
        room = _THUMBNAILS - sum(len(part) for part in self.thumbnails)
        names = list(dict.fromkeys(rows))[: max(0, room)]
        small = torch.zeros(0, 3, _PIXELS, _PIXELS, dtype=torch.uint8, device=self.device)
        if names:
            frames = video[[rows.index(name) for name in names], :, video.shape[2] // 2].float()
            if video.dtype != torch.uint8:  # normalised already: by whatever statistics, from darkest to brightest
                low, high = (bound[:, None, None, None] for bound in frames.flatten(1).aminmax(dim=1))
                frames = 255 * (frames - low) / (high - low).clamp(min=1e-6)
            scaled = F.interpolate(frames, (_PIXELS, _PIXELS), mode="bilinear", antialias=True)
            small = scaled.round().clamp(0, 255).byte()
        self.put("seen", names)
        self.thumbnails.append(small)

    def _show(self, videos: list[str], texts: list[str], sim: Tensor, order: Tensor, right: Tensor) -> list[Row]:
        """Queries by the hash of their words, neither the best nor the worst, with the first videos of each."""
        frames = dim_zero_cat(self.thumbnails).permute(0, 2, 3, 1).cpu().numpy()
        seen = dict(zip(self.take("seen"), frames, strict=True))
        digests = [hashlib.blake2b(text.encode("utf-8", "surrogateescape")).digest() for text in texts]
        chosen = sorted(range(len(texts)), key=digests.__getitem__)[: self.pictures]
        found = ranks(order[chosen], right[chosen]).tolist()
        rows = []
        for q, place in zip(chosen, found, strict=True):
            first = [int(v) for v in top(order[q : q + 1], _SHOWN)[0]]
            missed = [] if right[q, first].any() else [int(order[q].masked_fill(~right[q], -torch.inf).argmax())]
            tiles = []
            for i, v in enumerate(first + missed):
                number = str(i + 1) if i < len(first) else f"right: {place}"
                frame = [seen[videos[v]]] if videos[v] in seen else []
                tiles.append(Tile(frame, [f"{number} · {sim[q, v]:.3f}", videos[v]], bool(right[q, v])))
            rows.append(Row(texts[q], f"right: number {place} of {len(videos)} videos", tiles))
        return rows


def both(prefix: str, text_to_video: Tensor, video_to_text: Tensor, right: Tensor) -> dict[str, Tensor]:
    """Recalls both ways, of similarities `[n, V]` and `[V, n]`, where `right` `[n, V]` is."""
    ways = {"t2v": ranks(text_to_video, right), "v2t": ranks(video_to_text, right.t())}
    return {f"{prefix}{way}/{name}": value for way, found in ways.items() for name, value in recalls(found).items()}


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
