"""UMT, second stage: a video and its text meet by contrast, by matching and by hidden words, while the student keeps to
its unmasked teacher (arXiv 2303.16058, section 3.3).

Letters in shapes: B pairs, G pairs to draw negatives from, K visible tokens, L places of a text, D the shared width.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bert import Bert
from models.decoders import FeatureDecoder
from models.encoder import Encoder
from models.layers import Grid
from models.tokenizers import Words
from pretrain.learning.contrast import first_if_still, gather, global_masked_mean, keys, pair_loss, unit_texts
from pretrain.learning.losses import alignment
from pretrain.learning.masking import Mask
from pretrain.learning.matching import check_text, matching_loss, matching_pairs, wrong_pairs
from pretrain.learning.teachers import Frozen, check_student, last_blocks, teach
from pretrain.learning.text_masking import IGNORED, bert_words, hidden_words, labels_of
from pretrain.objectives.objective import Batch, Objective


class UMT2(Objective):
    """A student of videos and a reader of texts, whose upper layers look at the video.

    A loss of weight 0 is not computed, and its parts must not be given.

    Args:
        encoder: the student; alignment and pictures need tokens one frame deep.
        text: BERT, whose upper layers look at `encoder.width` channels.
        words: how texts are read.
        embed: D, the width in which video and text are compared.
        decoder, teacher: for alignment, as in `UMT`; a mask by attention needs the teacher too.
        mask: which tokens the student sees, in training; None: all.
        image_mask: the same for batches of pictures, whose frames are all alike: they are seen as clips of one frame.
            None: no batch is looked at for that.
        contrast_weight, matching_weight, words_weight, alignment_weight: of the losses.
        hide: share of the words that are hidden and guessed.
        temperature: where it starts; kept between `temperature_min` and `temperature_max`.
        per_frame: compare a text with each frame of a video that is seen whole, and average: what every frame says
            counts. False: with the mean of all tokens, as where some are hidden.
        positives: what makes two samples of a batch one: the video's name, or the caption.
        negatives: matching draws them from this rank's pairs, as released, or from all, whose tokens then travel.
        exact_gather: the true gradient over ranks; False is the released code's, smaller by the number of ranks.
        interval, loss: of alignment, as in `UMT`.
        base: see `Objective`.
    """

    def __init__(
        self,
        encoder: Encoder,
        text: Bert,
        words: Words,
        embed: int = 512,
        decoder: FeatureDecoder | None = None,
        teacher: Frozen | None = None,
        mask: Mask | None = None,
        image_mask: Mask | None = None,
        contrast_weight: float = 1.0,
        matching_weight: float = 1.0,
        words_weight: float = 1.0,
        alignment_weight: float = 1.0,
        hide: float = 0.5,
        temperature: float = 0.07,
        temperature_min: float = 0.001,
        temperature_max: float = 0.5,
        per_frame: bool = True,
        positives: Literal["name", "text"] = "name",
        negatives: Literal["rank", "all"] = "rank",
        exact_gather: bool = True,
        interval: float = 1,
        loss: Literal["l2", "mse", "smooth_l1"] = "l2",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.needs = ("video", "text")
        self.weigh = {
            "contrast": contrast_weight,
            "matching": matching_weight,
            "words": words_weight,
            "alignment": alignment_weight,
        }
        _check_parts(self.weigh, encoder, text, words, decoder, teacher)
        if image_mask is not None and encoder.tubelet != 1:
            raise ValueError(
                f"pictures are one frame and the student's tokens {encoder.tubelet} deep: set its tubelet to 1"
            )
        self.encoder, self.text, self.words, self.decoder, self.teacher = encoder, text, words, decoder, teacher
        self.taps = self.teacher_taps = ()
        if decoder is not None:
            self.taps = last_blocks(len(encoder.blocks), len(decoder.heads), interval)
            self.teacher_taps = last_blocks(len(teacher.model.blocks), len(decoder.heads), interval)
        self.pool_norm = nn.LayerNorm(encoder.width, 1e-6)
        self.video_proj = nn.Linear(encoder.width, embed)
        self.text_proj = nn.Linear(text.width, embed)
        self.match_head = nn.Linear(text.width, 2) if matching_weight else None
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.bounds = {"temperature": (temperature_min, temperature_max)}
        self.mask, self.image_mask, self.hide, self.per_frame = mask, image_mask, hide, per_frame
        self.positives, self.negatives, self.exact_gather, self.loss = positives, negatives, exact_gather, loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.keep_in_bounds()
        video, generator = self.normalize(self.look(batch["video"])), self.generator(batch["video"].device)
        ids, seen = self.read(batch["text"])
        same = keys(batch[self.positives], video.device)

        keep, target = self.choose(video, generator)
        tokens, layers = self.see(video, keep)
        states = self.text.read(ids, seen)
        whole = tokens.shape[1] == math.prod(self.grid_of(video))
        a, b = self.pool(tokens, whole), self.text_proj(states[:, 0])

        losses = {"contrast": pair_loss(a, b, same, self.temperature, not self.training, self.exact_gather)}
        if self.weigh["matching"]:
            *wrong, has_negative = self.draw_negatives(a, b, same, generator)
            logits = self.match_logits(*matching_pairs(tokens, states, seen, *wrong, self.across))
            losses["matching"] = matching_loss(logits, has_negative, not self.training)
        if self.weigh["words"]:
            losses["words"] = self.words_loss(tokens, seen, *self.hide_words(ids, seen, generator))
        if self.weigh["alignment"]:
            losses["alignment"] = alignment(self.decoder(layers, keep), target, self.loss)
        return {name: self.weigh[name] * loss for name, loss in losses.items()}

    # What is seen

    def look(self, video: Tensor) -> Tensor:
        """`video` `[B, C, T, H, W]`, or its first frame where the batch is one of pictures, on this rank and all."""
        return video if self.image_mask is None else first_if_still(video, not self.training)

    def grid_of(self, video: Tensor) -> Grid:
        """The tokens of `video`, in time, rows and columns: a picture has one slice."""
        return video.shape[2] // self.encoder.tubelet, *self.encoder.grid[1:]

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids of texts, and True where they have a word: two of `[B, L]`.

        L is the longest text's, for padding changes nothing; where ranks exchange texts, it is the most that fit.
        """
        ids = self.words(texts)
        seen = ids != self.words.tokenizer.pad
        if self.negatives == "rank" or not self.training:
            longest = int(seen.any(dim=0).nonzero().max()) + 1
            ids, seen = ids[:, :longest], seen[:, :longest]
        return ids.to(self.device), seen.to(self.device)

    def choose(self, video: Tensor, generator: torch.Generator) -> tuple[Tensor | None, list[Tensor] | None]:
        """The tokens `[B, K]` that the student sees (None: all), and what the teacher says of them, `[B, K, out]` each
        layer (None: it is not asked)."""
        grid = self.grid_of(video)
        mask = self.image_mask if grid[0] == 1 and self.image_mask is not None else self.mask
        noise = None if mask is None else self.noise(generator, len(video), mask.width(grid))
        if self.teacher is not None:
            target, keep = teach(self.teacher, video, self.teacher_taps, mask, noise, grid)
            return keep, target
        return None if mask is None else mask(noise, grid), None

    def see(self, video: Tensor, keep: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The student's tokens `[B, K, C]` of a normalised video, and those of the layers that are aligned."""
        return self.encoder(video, keep, self.taps) if self.taps else (self.encoder(video, keep), [])

    def pool(self, tokens: Tensor, whole: bool) -> Tensor:
        """Tokens `[B, K, C]` to what is compared with texts: `[B, T, D]`, of a `whole` video a vector a frame, or
        `[B, 1, D]`."""
        a_frame = self.encoder.grid[1] * self.encoder.grid[2] if whole and self.per_frame else tokens.shape[1]
        return self.video_proj(self.pool_norm(tokens.unflatten(1, (-1, a_frame)).mean(dim=2)))

    # Losses

    def across(self, x: Tensor) -> Tensor:
        """`x` of all ranks in training, where negatives come from all; else this rank's."""
        return gather(x, self.exact_gather) if self.training and self.negatives == "all" else x

    def draw_negatives(
        self, video: Tensor, text: Tensor, same: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """A wrong video for each text and a wrong text for each video, by what is compared; see `wrong_pairs`."""
        noise = self.noise(generator, len(video), 2 * len(self.across(same)) + 1)
        return wrong_pairs(video, text, same, self.temperature, noise, self.across)

    def match_logits(self, tokens: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        """Whether text and video are a pair, no and yes, `[B, 2]`."""
        return self.match_head(self.text.fuse(states, seen, tokens)[:, 0])

    def hide_words(self, ids: Tensor, seen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What is read in place of `ids` `[B, L]`, and the words to guess, `IGNORED` elsewhere. The start is never
        hidden, the end may be."""
        tokenizer = self.words.tokenizer
        noise = self.noise(generator, len(ids), 2 * tokenizer.context).to(ids.device).unflatten(1, (2, -1))
        noise = noise[:, :, : ids.shape[1]]
        hidden = hidden_words(noise[:, 0], seen & (ids != tokenizer.start), self.hide)
        return bert_words(ids, hidden, noise[:, 1], tokenizer.mask, tokenizer.vocabulary), labels_of(ids, hidden)

    def words_loss(self, tokens: Tensor, seen: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        """Guess hidden words `labels` `[B, L]` from the rest, `ids` `[B, L]`, and from the video."""
        guess = self.text.words(self.text(ids, seen, tokens))  # [B, L, V]
        error = F.cross_entropy(guess.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
        return global_masked_mean(error, (labels != IGNORED).flatten().float(), not self.training)

    # What metrics ask

    def encode_video(self, video: Tensor) -> Tensor:
        """`[B, D]` of `video` `[B, 3, T, H, W]`, all of whose tokens are seen: its product with a text's is the cosine,
        or the mean of the frames' cosines."""
        return self.predict({"video": video})["features"]

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit features `[n, D]` of any number of texts."""
        return unit_texts(lambda some: self.text_proj(self.text.read(*self.read(some))[:, 0]), texts)

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`features` `[B, D]`, see `encode_video`, and `tokens` `[B, N, C]`, which `match` takes."""
        tokens = self.encoder(self.normalize(batch["video"]))
        return {"features": F.normalize(self.pool(tokens, True).float(), dim=-1).mean(dim=1), "tokens": tokens}

    @torch.no_grad()
    def match(self, tokens: Tensor, texts: Sequence[str]) -> Tensor:
        """How well each video, of `tokens` `[n, N, C]`, and the text beside it match, `[n]`."""
        if self.match_head is None:
            raise ValueError("a UMT2 without a matching loss has no head to match by: give it a matching_weight")
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        _, seen = read = self.read(list(number))
        states = self.text.read(*read)
        rows = torch.tensor([number[text] for text in texts], device=states.device)
        return self.match_logits(tokens, states[rows], seen[rows])[:, 1].float()


def _check_parts(
    weigh: dict[str, float],
    encoder: Encoder,
    text: Bert,
    words: Words,
    decoder: FeatureDecoder | None,
    teacher: Frozen | None,
) -> None:
    """A ValueError where a part is missing, would not train, or does not fit."""
    if weigh["contrast"] <= 0:
        raise ValueError("contrast_weight must be above 0: contrast finds the wrong pairs that matching learns from")
    aligned, guesses, fuses = weigh["alignment"] > 0, weigh["words"] > 0, weigh["matching"] + weigh["words"] > 0
    if aligned != (decoder is not None) or (aligned and teacher is None):
        raise ValueError("alignment needs a decoder and a teacher, and nothing else the decoder: see alignment_weight")
    if guesses != (text.head is not None):
        raise ValueError("hidden words need the text tower's `head`, and nothing else does: see words_weight")
    if fuses != (text.fusion < len(text.blocks)):
        raise ValueError(
            f"of {len(text.blocks)} layers {text.fusion} read text alone (`fusion`): matching and hidden words need "
            "some above them, and nothing else does"
        )
    if aligned:
        check_student(encoder, decoder, teacher.model)
    check_text(encoder, text, words)
