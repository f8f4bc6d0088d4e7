"""VideoChat's parts against the official code: encoder, Q-Former, position tables, tiles, learning rates."""

import math

import torch
from torch import Tensor

import models
from models.chat.alignment import with_start
from models.chat.gmhra import VideoChatViT
from models.chat.language_model import label_loss
from models.chat.qformer import QFormer
from models.chat.tiles import closest_tiles, padded_size, resize_to_tiles, split_tiles
from models.convert import videochat as names
from models.convert.rules import to_theirs
from models.positions import resize_table, sinusoid_table
from pretrain.learning.optim import ClampedAdamW
from tests.parity import checks
from tests.parity.case import TABLE, Case, Record

WORDS = {"what": "words", "official": "words", "keys": "words", "official_config": "words", "quirk_*": "words"}
TOKENIZER = {"bert_tokenizer": "words: the ids are stored", "llm_tokenizer": "words", "pad_token_id": "see in."}


def tolerance(case: Case, rtol: float = 1e-5) -> dict:
    return {"atol": case.facts["atol"], "rtol": rtol}


def weights(case: Case) -> dict[str, Tensor]:
    """The official state dict."""
    return {name.removeprefix("sd."): case[name] for name in case.names() if name.startswith("sd.")}


def load(model: torch.nn.Module, state: dict[str, Tensor], back: dict[str, Tensor]) -> torch.nn.Module:
    """Load official weights completely, and expect them in the official layout out of ours, `back`, bit for bit."""
    report = models.load_weights(model, state)
    assert not report.missing and not report.unused, report
    buffers = {name for name in state if name.endswith("position_ids")}
    assert back.keys() == state.keys() - buffers
    assert all(torch.equal(back[name], state[name]) for name in back)
    return model.eval()


@checks("gmhra", not_needed=WORDS | {"config.lmhra_reduction": "of the local MHRA, which is off"})
def gmhra(case: Case) -> None:
    c = case.facts["config"]
    assert c["no_lmhra"] and not c["double_lmhra"], "the local MHRA is off in all released configurations"
    assert c["qkv_bias"] and c["ln_eps"] == 1e-6 and c["gmhra_ln_eps"] == 1e-5
    width, ratio = c["embed_dim"], c["mlp_ratio"]
    encoder = VideoChatViT(
        width=width,
        depth=c["depth"],
        heads=c["num_heads"],
        mlp=int(width * ratio),
        readers=c["gmhra_layers"],
        reader_mlp=round(width * ratio),
        patch=c["patch_size"],
        size=c["img_size"],
        frozen=True,
    )
    state = weights(case)
    report = models.load_weights(encoder, state)
    assert not report.missing and not report.unused, report
    encoder.eval()

    def official(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        ours = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
        return to_theirs(names.videochat_encoder(""), ours)[0]

    back = official(encoder.state_dict())
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    case.fact(case.facts, "trainable_when_vit_frozen", sorted(official(trained)))
    first = c["depth"] - c["gmhra_layers"]
    case.fact(case.facts, "gmhra_layer_index_order", list(range(first, c["depth"])))
    video = case["in.video"]  # [B, C, T, H, W]
    case.sizes(case.facts, frames=video.shape[2])
    tokens = encoder(video)
    case.fact(case.facts, "output_shape", list(tokens.shape))
    case.close("out.tokens", tokens, tolerance(case))


def qformer_of(case: Case, c: Record, state: dict[str, Tensor], prefix: str, source: int | None = None) -> QFormer:
    """An empty Q-Former of the case's sizes, with the parts that its weights have; `prefix` ends before `bert`."""
    layer, table = f"{prefix}bert.encoder.layer.0.", f"{prefix}bert.embeddings.word_embeddings.weight"
    assert c.get("layer_norm_eps", 1e-12) == 1e-12 and c.get("hidden_act", "gelu") == "gelu"
    text = table in state
    vocabulary = len(state[table]) if text else c.get("vocab_size_with_DEC", 1)
    case.fact(c, "vocab_size_with_DEC", vocabulary)
    assert text == (f"{layer}intermediate.dense.weight" in state)
    return QFormer(
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        mlp=c["intermediate_size"],
        source=c.get("encoder_width", source),
        vocabulary=vocabulary,
        context=c["max_position_embeddings"],
        cross_every=c.get("cross_attention_freq", 2),
        text=text,
        head=f"{prefix}cls.predictions.bias" in state,
    )


@checks("qformer", not_needed=WORDS | TOKENIZER | {"texts": "their ids are stored"})
def qformer(case: Case) -> None:
    state, close = weights(case), tolerance(case)
    former = qformer_of(case, case.facts["bert_config"], state, "")
    named = lambda: {f"qformer.{n}": t for n, t in former.state_dict().items()}  # noqa: E731
    models.load_weights(former, state)
    official, unknown = to_theirs(names.qformer(""), named())
    assert not unknown
    load(former, state, {**official, **names.bert.tied_copies(official)})
    queries, extra, video = case["in.query_tokens"][0], case["in.extra_query_tokens"][0], case["in.vision"]
    ids, visible = case["in.input_ids"], case["in.attention_mask"].bool()
    case.sizes(case.facts, num_query_token=len(queries), extra_num_query_token=len(extra), vision_tokens=video.shape[1])
    padded = (~visible).any(1)
    side = {"right": ~visible[:, -1], "left": ~visible[:, 0]}[case.facts["text_padding_side"]]
    assert torch.equal(side, padded)
    assert (ids[~visible] == case.facts["pad_token_id"]).all()

    states = former.hidden_states(queries, video)
    case.close("out.query_only", states[-1], close)
    for i, (key, value) in enumerate(former.keys_values(states)):
        case.close(f"out.query_only.kv.{i}.key", key, close)
        case.close(f"out.query_only.kv.{i}.value", value, close)
    both = torch.cat((queries, extra))
    case.close("out.query_extra", former(both, video), close)
    read = former.hidden_states(both, video, ids, visible)
    case.close("out.query_extra_text", read[-1], close)
    for name in case.names():
        if name.startswith("out.query_extra_text.hidden."):
            case.close(name, read[int(name.rpartition(".")[2])], close)
    partial = case.get("in.vision_mask_partial")
    if partial is not None:
        seen = former(both, video, ids, visible, partial.bool())
        case.close("out.query_extra_text_vismask", seen, close)
    case.close("out.text_only", former.encode_text(ids, visible), close)
    caption, labels = case["in.caption_ids"], case["in.caption_labels"]
    assert torch.equal(caption, with_start(ids, case.facts["bos_token_id"]))
    assert torch.equal(labels, caption.masked_fill(caption == case.facts["pad_token_id"], -100))
    logits = former.caption_logits(caption, states, visible)
    case.close("out.caption_logits", logits, close)
    loss = label_loss(logits, labels, case.facts["caption_label_smoothing"])
    case.fact(case.facts, "loss_caption", loss.item(), close)


@checks("position_tables", not_needed=WORDS)
def position_tables(case: Case) -> None:
    """Tables made for 4 frames, and in the second function for 14 x 14 tokens of a frame, resized to others."""
    for name, c in case.facts["cases"].objects().items():
        tokens, width = c["n_position"], c["d_hid"]
        if c["fn"].endswith("2"):
            frames = c.get("cur_frame", 4)
            base = c.get("ckpt_num_frame", 4)
            made_for = (base, *[math.isqrt(c.get("pre_n_position", base * 14 * 14) // base)] * 2)
        else:
            frames, base = c.get("cur_frame", 1), c.get("ckpt_num_frame", c.get("cur_frame", 1))
            made_for = (base, *[math.isqrt(tokens // frames)] * 2)
        grid = (frames, *[math.isqrt(tokens // frames)] * 2)
        table = resize_table(sinusoid_table(math.prod(made_for), width), made_for, grid)
        case.fact(c, "shape", [1, *table.shape])
        case.close(name, table[None], TABLE)


@checks("hd_tiling", not_needed=WORDS)
def hd_tiling(case: Case) -> None:
    for c in case.facts["cases"]:
        height, width, most, size = c["h"], c["w"], c["hd_num"], c.get("local_size", 224)
        rows, columns = closest_tiles(height, width, most, size)
        case.fact(c, "tiles_hw", [rows, columns])
        case.fact(c, "no_padding_hw", [rows * size, columns * size])
        case.fact(c, "padding_hw", list(padded_size(height, width, most, size, mirrored=True)))
    small = resize_to_tiles(torch.rand(1, 3, 12, 20), 6, 8)
    assert len(split_tiles(small, 8)) == math.prod(closest_tiles(12, 20, 6, 8)) + 1


@checks("cosine_with_floor", not_needed=WORDS)
def cosine_with_floor(case: Case) -> None:
    for c in case.facts["cases"]:
        optim = ClampedAdamW(
            base_lr=c["base_lr"], base_min_lr=c["base_lr"] * c["min_lr_multi"], warmup_steps=c["num_warmup_steps"]
        )
        total = c["num_training_steps"]
        ours = [optim.rate(step, total) for step in range(len(c.get("lr_per_step", [])))]
        case.fact(c, "lr_per_step", ours, {"atol": 1e-9, "rtol": 0})
