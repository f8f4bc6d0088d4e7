"""FLOPs of LaVie's base by level and kind of work; a multiplication and an addition are two.

Letters: F frames, n tokens (latent pixels) of a frame, c channels of a level, L text tokens.
"""

from collections import defaultdict
from typing import Any

Work = dict[tuple[int, str], float]  # by level (0 has the highest resolution) and kind
KINDS = (
    "convolutions",
    "spatial attention",
    "text attention",
    "temporal attention",
    "feed-forward",
    "linear in and out",
)
_NO_INPUT_GRADIENT = "products of inputs"  # of the first convolution and of the text's keys and values


def forward_flops(options: dict[str, Any], frames: int, height: int, width: int, text_tokens: int) -> Work:
    """Of one forward pass of one sample; projections are counted with their attention.

    Args:
        options: of `SpatioTemporalUNet`, with attention within frames first. height, width: of the latents.
    """
    widths, depth, attends = options["widths"], options.get("depth", 2), options["attention"]
    channels, embedding = options.get("channels", 4), 4 * widths[0]
    sizes = [(height, width)]
    for _ in widths[1:]:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    work: Work = defaultdict(float)

    def convolve(level: int, inputs: int, outputs: int, kernel: int = 9, kind: str = "convolutions") -> None:
        pixels = frames * sizes[level][0] * sizes[level][1]
        work[level, kind] += 2.0 * pixels * kernel * inputs * outputs

    def layer(level: int, inputs: int, attention: bool) -> None:
        c, n = widths[level], sizes[level][0] * sizes[level][1]
        convolve(level, inputs, c)
        convolve(level, c, c)
        if inputs != c:
            convolve(level, inputs, c, kernel=1)
        work[level, "linear in and out"] += 2.0 * embedding * c
        if not attention:
            return
        tokens = frames * n
        work[level, "linear in and out"] += 2.0 * tokens * 2 * c**2
        work[level, "spatial attention"] += 2.0 * tokens * 4 * c**2 + 4.0 * tokens * n * c
        work[level, "text attention"] += 2.0 * tokens * 2 * c**2 + 4.0 * tokens * text_tokens * c
        work[level, _NO_INPUT_GRADIENT] += 2.0 * text_tokens * 2 * options["text_width"] * c
        work[level, "temporal attention"] += 2.0 * tokens * 4 * c**2 + 4.0 * tokens * frames * c
        work[level, "feed-forward"] += 2.0 * tokens * 12 * c**2

    convolve(0, channels, widths[0], kind=_NO_INPUT_GRADIENT)
    skips, inputs = [widths[0]], widths[0]
    for level, c in enumerate(widths):
        for _ in range(depth):
            layer(level, inputs, attends[level])
            inputs = c
            skips.append(c)
        if level < len(widths) - 1:
            convolve(level + 1, c, c)
            skips.append(c)
    last = len(widths) - 1
    layer(last, inputs, True)
    layer(last, inputs, False)
    for level in reversed(range(len(widths))):
        for _ in range(depth + 1):
            layer(level, inputs + skips.pop(), attends[level])
            inputs = widths[level]
        if level:
            convolve(level - 1, inputs, inputs)
    convolve(0, inputs, channels)
    work[0, "linear in and out"] += 2.0 * (widths[0] * embedding + embedding**2)
    return dict(work)


def total_flops(work: Work, trained: bool) -> float:
    """The sum; with training the backward pass too, which is twice the forward one but for gradients of inputs."""
    if not trained:
        return sum(work.values())
    return sum(flops * (2 if kind == _NO_INPUT_GRADIENT else 3) for (_, kind), flops in work.items())


def as_markdown(work: Work) -> str:
    """A row for each level, in GFLOP."""
    kinds = [*KINDS, _NO_INPUT_GRADIENT]
    lines = [f"| level | {' | '.join(kinds)} | all |", "| --- |" + " ---: |" * (len(kinds) + 1)]
    levels = sorted({level for level, _ in work})
    rows = {f"{level}": [work.get((level, kind), 0.0) for kind in kinds] for level in levels}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{flops / 1e9:.1f}' for flops in (*row, sum(row)))} |")
    return "\n".join(lines)
