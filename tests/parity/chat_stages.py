"""VideoChat2's stages against the official code: alignment, connection, instructions and tiles."""

import math

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, BertTokenizerFast, PreTrainedTokenizerFast

import models
from models.chat.alignment import Alignment
from models.chat.conversation import ChatBatch, collate, tokenize
from models.chat.language_model import add_lora, context_of, embeddings_of, label_loss, language_model
from models.chat.templates import (
    ChatTemplate,
    Conversation,
    Mistral,
    Phi3,
    Segment,
    Vicuna,
    as_text,
    caption_segments,
)
from models.chat.videochat import VideoChat
from models.convert import videochat as names
from models.vit import VideoViT
from pretrain.learning.contrast import contrastive_loss, hard_negatives, same_pairs, similarity
from pretrain.learning.matching import matching_loss, matching_pairs
from tests.helpers.paths import TESTS
from tests.parity import checks
from tests.parity.case import Case
from tests.parity.chat import TOKENIZER, WORDS, qformer_of, tolerance, weights
from tests.parity.chat_strings import parsed

ENCODER = {
    "vision_encoder.name": "a word",
    "vision_encoder.use_checkpoint": "gradient checkpointing",
    "vision_encoder.checkpoint_num": "gradient checkpointing",
    "vision_encoder.pretrained": "a path",
    "vision_encoder.drop_path_rate": "evaluation mode",
}
# By the family of the language model, which official names say.
TEMPLATES: dict[str, ChatTemplate] = {"llama": Vicuna(learn_markers=True), "mistral": Mistral(), "phi": Phi3()}


def encoder_of(case: Case) -> VideoViT:
    """The case's encoder: without a final norm, and without the blocks after the one that is returned."""
    c = case.facts["vision_encoder"]
    width, base, size, patch = c["encoder_embed_dim"], c["ckpt_num_frame"], c["img_size"], c["patch_size"]
    assert c["d_model"] == width and c["tubelet_size"] == 1
    side = size // patch if size == 224 else 14  # tables of other sizes are resized from 14 x 14 tokens
    encoder = VideoViT(
        width=width,
        depth=c["encoder_depth"] + c["return_index"] + 1,
        heads=c["encoder_num_heads"],
        mlp=c.get("mlp_ratio", 4) * width,
        patch=patch,
        tubelet=1,
        frames=c["num_frames"],
        size=size,
        norm=c.get("with_ln", False),
        made_for=(base, side, side),
    )
    case.close("aux.pos_embed", encoder.positions()[None], {"atol": 1e-6, "rtol": 0})
    case.close("aux.img_pos_embed", encoder.positions.of_image()[None], {"atol": 1e-6, "rtol": 0})
    return encoder


def without_table(model: torch.nn.Module) -> dict[str, Tensor]:
    """Our state without the fixed position table, which official files do not have."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("positions.table")}


def check_gradients(case: Case, key: str, gradients: dict[str, Tensor]) -> None:
    """Norms of gradients by official names; a key's bias has none but rounding."""
    expected = case.facts[key].plain() if key in case.facts else {}
    for name, norm in expected.items():
        ours = gradients[name].norm().item()
        assert math.isclose(ours, norm, rel_tol=1e-3, abs_tol=1e-5), f"gradient of {name}: {ours}, official {norm}"
    if expected:
        case.compared.add((key,))


def official_gradients(model: torch.nn.Module, family: str | None) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return names.to_official(found, family)[0]


@checks(
    "videochat2_align",
    not_needed=WORDS | ENCODER | TOKENIZER | {"texts": "their ids are stored", "text_pad": "see in.input_ids"},
)
def align(case: Case) -> None:
    f, state, close = case.facts, weights(case), tolerance(case)
    c = f["vision_encoder"]
    joined, added = f.get("vtm_cat_text_cls", False), f.get("vtm_add_text_cls", False)
    video = case["in.image"].transpose(1, 2)  # [B, C, T, H, W]
    tokens_of_image = (c["img_size"] // c["patch_size"]) ** 2
    model = Alignment(
        encoder_of(case),
        qformer_of(case, f["bert_config"], state, "qformer.", c["encoder_embed_dim"]),
        queries=f["num_query_token"],
        features=f["embed_dim"],
        temperature=f["temp"],
        summary="add" if added else "concatenate" if joined else "queries",
        norm=c["vit_add_ln"],
        repeat_images="out.vision_embeds" in case and case["out.vision_embeds"].shape[1] > tokens_of_image,
    )
    models.load_weights(model, state)
    official, unknown = names.to_official(without_table(model))
    assert not unknown
    load_all(model, state, official)
    model.clamp_temperature()
    ids, visible, keys = case["in.input_ids"], case["in.attention_mask"].bool(), case["in.idx"]

    encoded = model.encoder(video)
    case.close("out.vision_encoder", encoded.unflatten(1, (video.shape[2], -1)), close)
    tokens = model.video_tokens(video)
    case.close("out.vision_embeds", tokens, close)
    states = model.video_states(tokens)
    case.close("out.vision_query", states[-1], close)
    text = model.text_states(ids, visible)
    case.close("out.text_embeds", text, close)
    features, query = model.video_proj(states[-1]), model.text_proj(text[:, 0])
    similar = similarity(features, query, model.temperature, f["agg_method"])
    case.close("out.sim_v2t", similar, close)
    case.close("out.sim_t2v", similar.t(), close)
    same = same_pairs(keys)
    losses = {"loss_vtc": contrastive_loss(similar, same)}
    if "in.neg_text_indices" in case:
        wrong_video, wrong_text = case["in.neg_vision_indices"], case["in.neg_text_indices"]
        assert (
            not same[torch.arange(len(same)), wrong_video].any() and not same[torch.arange(len(same)), wrong_text].any()
        )
        assert hard_negatives(similar, same, torch.rand_like(similar))[0].shape == wrong_text.shape
        rows = matching_pairs(tokens, ids, visible, wrong_video, wrong_text, lambda x: x)
        logits = model.match_logits(*rows)
        losses["loss_vtm"] = matching_loss(logits, torch.ones(len(ids)))
        case.close("out.vtm_embed_matched", model.match_features(tokens, ids, visible), close)
        case.close("out.vtm_logits_matched", logits[: len(ids)], close)
    start = len(state["qformer.bert.embeddings.word_embeddings.weight"]) - 1  # [DEC] is the last token
    labels = torch.cat((torch.full_like(ids[:, :1], start), ids[:, 1:]), dim=1).masked_fill(~visible, -100)
    losses["loss_cap"] = label_loss(model.caption_logits(states, ids, visible, start), labels, 0.1)
    for name, loss in losses.items():
        case.fact(f, name, loss.item(), close)
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    check_gradients(case, "grad_norms_of_sum", official_gradients(model, None))


def load_all(model: torch.nn.Module, state: dict[str, Tensor], official: dict[str, Tensor]) -> torch.nn.Module:
    """`load`, with the model's own position table, which may be saved with the weights, left aside."""
    report = models.load_weights(model, state)
    missing = [name for name in report.missing if not name.endswith("positions.table")]
    assert not missing and not report.unused, report
    buffers = {name for name in state if name.endswith(("position_ids", "inv_freq"))}
    assert official.keys() == state.keys() - buffers
    assert all(torch.equal(official[name], state[name]) for name in official)
    return model.eval()


def tokenizers() -> tuple[PreTrainedTokenizerFast, BertTokenizerFast]:
    """The language model's tokenizer and the Q-Former's, as the cases were made with; pad and end are one token."""
    folder = TESTS / "references/tokenizers"
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(folder / "llm_wordlevel_tokenizer.json")),
        **{"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"},
    )
    pieces = BertTokenizerFast(str(folder / "bert_vocab.txt"), do_lower_case=True)
    pieces.add_special_tokens({"bos_token": "[DEC]"})
    return words, pieces


def chat_of(case: Case, state: dict[str, Tensor], constant_bos: bool) -> tuple[VideoChat, str]:
    """The case's model with its weights, in evaluation mode, and the family of its language model."""
    f = case.facts
    c = f["llm"]
    family = next(k for k in names.FAMILIES if f"{k}_proj.weight" in state)
    known = AutoConfig.for_model(c["kind"]).to_dict()
    llm = language_model({"model_type": c["kind"], **{key: c[key] for key in c if key in known}})
    lora = f.get("lora")
    if f.get("use_lora", False):
        adapted = sorted({name.split(".")[-4] for name in state if ".lora_A." in name})
        said = lora["targets"]  # in words: those layers that the language model has are adapted
        assert all(name.removesuffix("_proj") in said for name in adapted), (said, adapted)
        llm = add_lora(llm, lora["r"], lora["alpha"], lora["dropout"], adapted)
    elif lora is not None:
        lora.plain()  # switched off
    source = f["vision_encoder"]["encoder_embed_dim"]
    model = VideoChat(
        encoder_of(case),
        qformer_of(case, f["bert_config"], state, "qformer.", source),
        llm,
        queries=f["num_query_token"],
        extra_queries=f["extra_num_query_token"],
        norm_eps=1e-12 if f["vision_encoder"]["vit_add_ln"] else None,
        constant_bos=constant_bos,
    )
    models.load_weights(model, state)
    official, unknown = names.to_official(without_table(model), family)
    assert not unknown
    load_all(model, state, official)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    case.fact(f, "trainable_parameters", sorted(names.to_official(trained, family)[0]))
    return model, family


def check_batch(case: Case, model: VideoChat, family: str, batch: ChatBatch, visual: Tensor | list[Tensor]) -> None:
    """Embeddings, mask, labels, loss, gradients."""
    close = tolerance(case)
    case.equal("out.labels", batch.labels)
    case.equal("out.attention_mask", batch.attention_mask)
    case.close("out.inputs_embeds", model.embed(batch, visual), close)
    loss = model(batch, visual)
    case.fact(case.facts, "loss", loss.item(), close)
    loss.backward()
    check_gradients(case, "grad_norms", official_gradients(model, family))


@checks(
    "videochat2_connect", not_needed=WORDS | ENCODER | TOKENIZER | {"img_prompt": "of images", "prompt": "of videos"}
)
def connect(case: Case) -> None:
    f, state = case.facts, weights(case)
    model, family = chat_of(case, state, constant_bos=False)
    words, _ = tokenizers()
    video = case["in.image"].transpose(1, 2)
    prompt = f["img_prompt" if video.shape[2] == 1 else "prompt"][0]
    visual = model.visual_tokens(video)
    case.close("out.visual_tokens", visual, tolerance(case))
    rows = []
    for caption in f["captions"]:
        segments = caption_segments(prompt, caption, _Ends(f["end_sym"]))
        rows.append(
            tokenize(segments, words, [visual.shape[1]], answer_limit=f["max_txt_len"], ignore_pad_targets=True)
        )
    check_batch(case, model, family, collate(rows, words.pad_token_id), visual)


class _Ends:
    """A template that only says how an answer ends."""

    def __init__(self, end: str) -> None:
        self.end, self.stops = end, (end,)

    def segments(self, conversation: Conversation) -> list[Segment]:
        raise NotImplementedError


@checks("videochat2_instruct", "videochat2_hd", not_needed=WORDS | ENCODER | TOKENIZER)
def instruct(case: Case) -> None:
    f, state, close = case.facts, weights(case), tolerance(case)
    model, family = chat_of(case, state, constant_bos=True)
    words, pieces = tokenizers()
    pieces.padding_side, pieces.truncation_side = f["bert_text_padding_side"], "left"
    read = pieces(f["instructions"], padding=True, truncation=True, max_length=f["max_txt_len"], return_tensors="pt")
    reads = read.input_ids, read.attention_mask.bool()
    tiles = f.get("dynamic_config")
    if tiles is None:
        visual = model.visual_tokens(case["in.image"].transpose(1, 2), *reads)
        case.close("out.visual_tokens", visual, close)
        counts = [visual.shape[1]] * len(visual)
    else:
        assert tiles["local_size"] == model.encoder.size and tiles["padding"] in (True, False)  # done before the model
        videos = [case[f"in.image.{i}"].transpose(0, 1) for i in range(len(f["texts"]))]
        most = [video.shape[2] * video.shape[3] // tiles["local_size"] ** 2 for video in videos]
        assert max(most) <= tiles["hd_num"]
        visual = model.tile_tokens(videos, *reads, whole=tiles["add_global"])
        for i, tokens in enumerate(visual):
            case.close(f"out.visual_tokens.{i}", tokens[None], close)
        counts = [len(tokens) for tokens in visual]
    template, rows = TEMPLATES[family], []
    for text, count in zip(f["texts"], counts, strict=True):
        segments = template.segments(parsed(text, family))
        assert as_text(segments) == text, (as_text(segments), text)
        rows.append(tokenize(segments, words, [count], f["max_txt_len"] + count, context=context_of(model.llm)))
    if "supervised_tokens_per_row" in f:
        learnt = [words.convert_ids_to_tokens([label for label in row.labels if label != -100]) for row in rows]
        case.fact(f, "supervised_tokens_per_row", learnt)
    assert len(embeddings_of(model.llm).weight) == f["llm"]["vocab_size"]
    check_batch(case, model, family, collate(rows, words.pad_token_id), visual)
