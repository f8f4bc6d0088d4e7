"""Retrieval: text to video and video to text.

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

from pretrain.learning.batch import Batch
from pretrain.learning.precision import run_precision
from pretrain.metrics.ranking import by_video, dual_softmax, ranks, recalls, rerank, top_k
from pretrain.metrics.text_metric import TextMetric, captions_of, mean_by_name, require_nonempty
from pretrain.plots.result_grid import Row, Tile, result_grid

_PAIRS = 64  # matched at a time
_THUMBNAILS, _PIXELS = 2048, 96  # the most thumbnails on a rank and their side: 57 MB at most
_SHOWN = 5  # videos of a query in the picture


class Retrieval(TextMetric):
    """Recall and rank of text to video (`t2v/R1`, `R5`, `R10` in percent, `MdR`, `MnR`) and of video to text (`v2t/`).

    Rows of equal name are views of one video; their features, and so their similarities, are averaged. In text to video
    each caption is a query for its video; in video to text the best-ranked caption of a video counts. Ties count
    against the model (see `ranks`). Videos and captions are sorted and compared in float64, so that ranks depend
    neither on the batch size nor on the world size.

    Memory on each rank: D numbers a video and D a caption, and a few matrices of captions x videos, on the CPU. With
    `rerank`, each rank also keeps the tokens of its own videos, on the CPU.

    Args:
        dual_softmax: also report, under `dsl/`, similarities times their softmax over the queries, which uses all
            queries of the test set at once.
        rerank: also report, under `rerank/`, the top so many candidates of each query (128 in UMT) reranked by the
            model's matching score, the others below by similarity. The model needs a method `match` and an output
            `tokens`; scores of a video's views are averaged. 0: none.
        by_video: also report, under `by_video/`, video to text by CLIP4Clip's rule for several captions a video: the
            candidates are videos, each by its best caption.
        merge_texts: equal captions are one query, for which all their videos are correct (class names as captions, as
            in Something-Something). By default each is a query for its own video.
        pictures: number of queries that `picture` shows, with the five most similar videos of each.
        features: name of the model's output.
    """

    fields = ("text",)
    features: list[Tensor]
    counts: list[Tensor]
    captions: list[Tensor]
    thumbnails: list[Tensor]

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
        self.merge_texts, self.pictures, self.output = merge_texts, pictures, features
        self.required_methods = ("encode_text", "match") if rerank else ("encode_text",)
        for strings in ("names", "texts", "thumbnail_names"):
            self.add_string_state(strings)
        for state in ("features", "counts", "captions", "thumbnails"):
            self.add_state(state, [], dist_reduce_fx="cat")
        self._tokens: list[tuple[list[str], Tensor]] = []  # of this rank's videos; not gathered
        self.result_rows: list[Row] = []

    def reset(self) -> None:
        super().reset()
        self._tokens, self.result_rows = [], []

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        rows = list(batch["name"])
        texts = dict(zip(rows, captions_of(rows, batch, "Retrieval"), strict=True))
        names, features, counts = mean_by_name(rows, outputs[self.output])
        self.append_strings("names", names)
        self.append_strings("texts", [text for name in names for text in texts[name]])
        self.captions.append(torch.tensor([len(texts[name]) for name in names], device=self.device, dtype=torch.long))
        self.features.append(features.float().to(self.device))
        self.counts.append(counts.float().to(self.device))
        if self.rerank:
            if "tokens" not in outputs:
                raise MisconfigurationException("rerank needs a model that predicts `tokens`; set rerank to 0 without")
            self._tokens.append((rows, outputs["tokens"].cpu()))
        if self.pictures:
            self._keep_thumbnails(rows, batch["video"])

    def compute(self) -> dict[str, Tensor]:
        videos, texts, sim, right = self._similarities()
        results = recalls_both_ways("", sim, sim.t(), right)
        if self.dual_softmax:
            results |= recalls_both_ways("dsl/", dual_softmax(sim), dual_softmax(sim.t()), right)
        if self.by_video:
            found = recalls(ranks(by_video(sim.t(), right), torch.eye(len(videos), dtype=torch.bool)))
            results |= {f"by_video/v2t/{name}": value for name, value in found.items()}
        order = sim
        if self.rerank:
            scores = self._match(videos, texts, sim)
            order = rerank(sim, scores, self.rerank)
            results |= recalls_both_ways("rerank/", order, rerank(sim.t(), scores.t(), self.rerank), right)
        if self.pictures:
            self.result_rows = self._results(self._thumbnails(), videos, texts, sim, order, right)
        return {name: value.float().to(self.device) for name, value in results.items()}

    def _similarities(self) -> tuple[list[str], list[str], Tensor, Tensor]:
        """Names of the videos, the captions, their similarities `[n, V]`, and True where a caption is of a video."""
        rows = self.get_strings("names")
        require_nonempty(rows)
        videos, features, counts = mean_by_name(rows, dim_zero_cat(self.features), dim_zero_cat(self.counts))
        index = {name: i for i, name in enumerate(videos)}
        captions = iter(self.get_strings("texts"))
        pairs = set()
        for name, number in zip(rows, dim_zero_cat(self.captions).tolist(), strict=True):
            own = [next(captions) for _ in range(number)]
            pairs |= {(index[name], text, own[:i].count(text)) for i, text in enumerate(own)}
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
        """Matching scores `[n, V]` of the top candidates both ways, NaN for others; each rank scores its own videos."""
        wanted = torch.zeros(sim.shape, dtype=torch.bool).scatter_(1, top_k(sim, self.rerank), True)
        wanted |= torch.zeros(sim.t().shape, dtype=torch.bool).scatter_(1, top_k(sim.t(), self.rerank), True).t()
        index = {name: i for i, name in enumerate(videos)}
        mine = [(index[name], tokens[i]) for names, tokens in self._tokens for i, name in enumerate(names)]
        pairs = [(n, v, tokens) for v, tokens in mine for n in wanted[:, v].nonzero()[:, 0].tolist()]
        blank = self._tokens[0][1].new_zeros(1, *self._tokens[0][1].shape[1:])
        found = torch.zeros(2, *sim.shape, dtype=torch.float64)  # sums of scores, numbers of views
        for start in range(0, self._largest_over_ranks(len(pairs)), _PAIRS):
            chunk = pairs[start : start + _PAIRS]
            tokens = torch.stack([tokens for _, _, tokens in chunk] or [*blank]).to(self.device)
            with torch.no_grad(), run_precision(self.objective):
                scores = self.objective.match(tokens, [texts[n] for n, _, _ in chunk] or [""])[: len(chunk)]
            places = tuple(torch.tensor([[n, v] for n, v, _ in chunk], dtype=torch.long).view(-1, 2).t())
            found[0].index_put_(places, scores.double().cpu(), accumulate=True)
            found[1].index_put_(places, torch.ones(len(chunk), dtype=torch.float64), accumulate=True)
        if _is_distributed():
            found = found.to(self.device)
            dist.all_reduce(found)
        return (found[0] / found[1]).cpu()

    def _largest_over_ranks(self, number: int) -> int:
        """The largest of the ranks' numbers: all ranks must call a model with sharded weights equally often."""
        if not _is_distributed():
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    # Pictures

    def picture(self) -> np.ndarray | None:
        """`pictures` queries with their retrieved videos, uint8 `[height, width, 3]`."""
        return result_grid(self.result_rows, _PIXELS) if self.result_rows else None

    def _keep_thumbnails(self, rows: list[str], video: Tensor) -> None:
        """Keeps the middle frame of each video's first view, uint8 `[3, 96, 96]`, up to `_THUMBNAILS` of them."""
        left = _THUMBNAILS - sum(len(part) for part in self.thumbnails)
        names = list(dict.fromkeys(rows))[: max(0, left)]
        thumbnails = torch.zeros(0, 3, _PIXELS, _PIXELS, dtype=torch.uint8, device=self.device)
        if names:
            frames = video[[rows.index(name) for name in names], :, video.shape[2] // 2].float()
            if video.dtype != torch.uint8:  # normalised, by unknown statistics: stretched to the full range
                low, high = (bound[:, None, None, None] for bound in frames.flatten(1).aminmax(dim=1))
                frames = 255 * (frames - low) / (high - low).clamp(min=1e-6)
            scaled = F.interpolate(frames, (_PIXELS, _PIXELS), mode="bilinear", antialias=True)
            thumbnails = scaled.round().clamp(0, 255).byte()
        self.append_strings("thumbnail_names", names)
        self.thumbnails.append(thumbnails)

    def _thumbnails(self) -> dict[str, np.ndarray]:
        frames = dim_zero_cat(self.thumbnails).permute(0, 2, 3, 1).cpu().numpy()
        return dict(zip(self.get_strings("thumbnail_names"), frames, strict=True))

    def _results(
        self,
        thumbnails: dict[str, np.ndarray],
        videos: list[str],
        texts: list[str],
        sim: Tensor,
        order: Tensor,
        right: Tensor,
    ) -> list[Row]:
        """The top videos of a few queries, chosen by a hash of their text and so at random."""
        digests = [hashlib.blake2b(text.encode("utf-8", "surrogateescape")).digest() for text in texts]
        chosen = sorted(range(len(texts)), key=digests.__getitem__)[: self.pictures]
        found = ranks(order[chosen], right[chosen]).tolist()
        rows = []
        for q, rank in zip(chosen, found, strict=True):
            first = [int(v) for v in top_k(order[q : q + 1], _SHOWN)[0]]
            missed = [] if right[q, first].any() else [int(order[q].masked_fill(~right[q], -torch.inf).argmax())]
            tiles = []
            for i, v in enumerate(first + missed):
                number = str(i + 1) if i < len(first) else f"right: {rank}"
                frame = [thumbnails[videos[v]]] if videos[v] in thumbnails else []
                tiles.append(Tile(frame, [f"{number} · {sim[q, v]:.3f}", videos[v]], bool(right[q, v])))
            rows.append(Row(texts[q], f"right: number {rank} of {len(videos)} videos", tiles))
        return rows


def recalls_both_ways(prefix: str, text_to_video: Tensor, video_to_text: Tensor, right: Tensor) -> dict[str, Tensor]:
    """Recalls and ranks both ways, of similarities `[n, V]` and `[V, n]` with the correct pairs `right` `[n, V]`."""
    ways = {"t2v": ranks(text_to_video, right), "v2t": ranks(video_to_text, right.t())}
    return {f"{prefix}{way}/{name}": value for way, found in ways.items() for name, value in recalls(found).items()}


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
