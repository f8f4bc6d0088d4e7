"""Videos to latents: `latents.py VIDEOS OUT --vae DIR --text DIR` encodes each clip and its captions once, into shards
that `fit` reads with `train: {class_path: Latents, init_args: {path: OUT}}`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; returns 0 if at least one clip was kept, 2 on an error."""
    parser = Parser(prog="latents.py", description=__doc__)
    parser.add_argument("videos", help="a folder, a csv or jsonl list with a column `path`, or shards of videos")
    parser.add_argument("out", type=Path, help="folder for the shards; run again to continue after a kill")
    parser.add_argument("--vae", required=True, help="folder of diffusers' AutoencoderKL, or of a pipeline with `vae`")
    parser.add_argument("--text", help="folder with `text_encoder` and `tokenizer`; without it no captions are encoded")
    parser.add_argument("--root", help="folder that relative paths of a list start from (default: that of the list)")
    parser.add_argument(
        "--buckets",
        nargs="+",
        type=_bucket,
        default=[_bucket("16x320x512")],
        metavar="FRAMESxHEIGHTxWIDTH",
        help="sizes and lengths of clips (default 16x320x512)",
    )
    parser.add_argument("--stride", type=int, default=4, help="between frames of a clip (default %(default)s)")
    parser.add_argument("--clips", type=int, default=1, help="clips of a video, spread over it (default %(default)s)")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="of the stored numbers")
    parser.add_argument("--shard-samples", type=int, default=256, help="videos per shard (default %(default)s)")
    parser.add_argument("--workers", type=int, help="decoding processes (default: one per core, at most 16)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds to read or decode a video (default 60)")
    parser.add_argument("--device", help="cuda, cpu, ... (default: cuda if there is one)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    a = parser.parse_args(arguments)
    if min(a.stride, a.clips, a.shard_samples) < 1:
        parser.error("--stride, --clips and --shard-samples must be 1 or more")
    import torch

    from datamodules.loading.defaults import cores_per_device
    from datamodules.sources.files import Files
    from datamodules.sources.remote import is_remote
    from datamodules.sources.shards import Shards
    from datamodules.sources.tars import INDEX
    from datamodules.storage.counted import counted
    from pretrain.features.latent_encoders import load_encoders
    from pretrain.features.latents import make_latents

    sharded = is_remote(a.videos) or Path(a.videos, INDEX).is_file()
    source = Shards(a.videos) if sharded else Files(a.videos, a.root, pictures=True)
    device = a.device or ("cuda" if torch.cuda.is_available() else "cpu")
    workers = cores_per_device(1) if a.workers is None else a.workers
    report = make_latents(
        *(source, str(a.out), load_encoders(a.vae, a.text, device), a.buckets, a.stride, a.clips, a.dtype),
        *(a.shard_samples, workers, a.limit or None),
        progress=not a.quiet,
    )
    counts = ", ".join(f"{count} of {bucket}" for bucket, count in report["buckets"].items())
    print(f"kept {counted(report['kept'], 'clip')}: {counts or 'none'}")
    for reason, count in report["reasons"].items():
        print(f"dropped {count}: {reason}")
    if report["captions cut"]:
        print(f"cut {len(report['captions cut'])}: captions with more tokens than the text encoder takes")
    print(f"written to {a.out}; {a.out / 'report.json'} names what was dropped and cut")
    return 0 if report["kept"] else 1


def _bucket(text: str):
    from datamodules.sources.buckets import Bucket

    try:
        frames, height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FRAMESxHEIGHTxWIDTH, such as 16x320x512") from None
    return Bucket(frames, height, width)


if __name__ == "__main__":
    sys.exit(main())
