"""Exports a chat model to transformers: modelling file, processor, merged language model, and peft's adapters."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.chat.conversation import collate
from models.chat.qformer import QFormer
from models.convert.videochat import Family
from models.convert.videochat import to_official as official_names
from models.positions import FixedPositions
from models.vit import VideoViT
from pretrain.export.chat_layouts import layout
from pretrain.export.processors import Evaluation
from pretrain.export.shared import encoder_sizes, require_close
from pretrain.learning.chat_rows import tokens_of
from pretrain.learning.language import STANDS_ON
from pretrain.objectives import Converse

if TYPE_CHECKING:
    from models.convert.modeling_videochat import TubeletChatForConditionalGeneration

EXAMPLE = """from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained("PATH", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("PATH", trust_remote_code=True)
question = [{"type": "video"}, {"type": "text", "text": "What happens?"}]
text = processor.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
inputs = processor(text, videos=["film.mp4"], instruction="")
print(processor.batch_decode(model.generate(**inputs, max_new_tokens=64)))"""


def to_transformers(model: Converse, folder: Path) -> str:
    """Write a folder for `AutoModelForImageTextToText`, with LoRA merged and, beside it, in peft's layout (`lora/`);
    load it and compare the logits.

    Raises:
        ValueError: the modelling file has no such encoder, tiles, or start token of a constant.
    """
    from models.convert.modeling_videochat import TubeletChatConfig, TubeletChatForConditionalGeneration

    theirs = as_transformers(model)
    TubeletChatConfig.register_for_auto_class()
    TubeletChatForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
    theirs.save_pretrained(folder)
    more = ""
    llm: Any = model.model.llm
    if hasattr(llm, "peft_config"):
        adapters = {name: tensor for name, tensor in llm.state_dict().items() if ".lora_" in name}
        llm.save_pretrained(folder / "lora", state_dict=adapters)
        more = ", LoRA merged, and in peft's layout in lora/"
    difference = compare(model, TubeletChatForConditionalGeneration.from_pretrained(folder))
    return f"TubeletChatForConditionalGeneration with its modelling file{more}; logits equal to {difference:.1e}"


def as_transformers(model: Converse) -> "TubeletChatForConditionalGeneration":
    """transformers' model of the same weights."""
    from transformers import InstructBlipQFormerConfig

    from models.convert.modeling_videochat import TubeletChatConfig, TubeletChatForConditionalGeneration
    from models.convert.modeling_videovit import VideoViTConfig

    chat, e = model.model, model.model.encoder
    if not isinstance(chat.qformer, QFormer):
        raise ValueError("the modelling file has no TokenMerger: export to safetensors")
    if not isinstance(e, VideoViT) or e.blocks[0].attn.scale is not None or model.tiles or chat.constant_bos:
        what = type(e).__name__ if not isinstance(e, VideoViT) else "tiles or constant_bos"
        raise ValueError(f"the modelling file has no {what}: export to safetensors or official")
    q, first = chat.qformer, chat.qformer.layers[0]
    llm = merged(chat.llm)
    config = TubeletChatConfig(
        vision_config=VideoViTConfig(
            **encoder_sizes(e),
            layer_scale=not isinstance(e.blocks[0].ls1, nn.Identity),
            final_norm=isinstance(e.norm, nn.LayerNorm),
            made_for=list(e.positions.made_for) if isinstance(e.positions, FixedPositions) else None,
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=q.vocabulary,
            hidden_size=q.width,
            num_hidden_layers=len(q.layers),
            num_attention_heads=q.heads,
            intermediate_size=first.intermediate_query.dense.out_features,
            encoder_hidden_size=q.source,
            max_position_embeddings=q.context,
            cross_attention_frequency=next(
                (i for i, layer in enumerate(q.layers) if i and layer.has_cross_attention), len(q.layers)
            ),
        ),
        text_config=llm.config,
        queries=chat.visual_tokens_of_video,
        norm_eps=chat.norm.eps if isinstance(chat.norm, nn.LayerNorm) else None,
        reads=q.text,
        visual_token_id=max(len(model.tokenizer), llm.config.vocab_size),
    )
    theirs = TubeletChatForConditionalGeneration(config)
    state: dict[str, Tensor] = {f"encoder.{name}": tensor for name, tensor in e.state_dict().items()}
    state |= {"encoder.positions.table": e.positions().detach(), "encoder.image_positions": e.positions.of_image()}
    for name, tensor in q.state_dict().items():
        state[
            "qformer." + (f"encoder.layer.{name.removeprefix('layers.')}" if name.startswith("layers.") else name)
        ] = tensor
    state |= {f"norm.{name}": tensor for name, tensor in chat.norm.state_dict().items()}
    state |= {f"projector.{name}": tensor for name, tensor in chat.projector.state_dict().items()}
    state |= {f"language_model.{name}": tensor for name, tensor in llm.state_dict().items()}
    theirs.load_state_dict({**state, "queries": chat.all_queries().detach()})
    return theirs.eval()


def merged(llm: nn.Module) -> Any:
    """A copy of the language model with its LoRA merged, whose states hold all of its weights."""
    copied: Any = copy.deepcopy(llm)
    for hooks in (copied._state_dict_hooks, copied._load_state_dict_pre_hooks, copied._load_state_dict_post_hooks):
        hooks.clear()
    delattr(copied, STANDS_ON)
    plain = copied.merge_and_unload() if hasattr(copied, "peft_config") else copied
    return plain.requires_grad_(False)


def save_processor(model: Converse, folder: Path, evaluation: Evaluation) -> str:
    """Write the processor: tokenizer, chat template, and the frames and pixels of the run's evaluation."""
    from models.convert.processing_video import TubeletVideoProcessor
    from models.convert.processing_videochat import TubeletChatProcessor

    mean, std = model.normalize.values
    videos = TubeletVideoProcessor(
        num_frames=evaluation.frames,
        stride=evaluation.stride,
        sampling=evaluation.sampling,
        antialias=evaluation.antialias,
        **evaluation.pixels,
        image_mean=list(mean),
        image_std=list(std),
    )
    TubeletVideoProcessor.register_for_auto_class("AutoVideoProcessor")
    TubeletChatProcessor.register_for_auto_class("AutoProcessor")
    rows, reader = model.row_encoder, model.row_encoder.reader
    TubeletChatProcessor(
        videos,
        model.tokenizer,
        chat_template=layout(rows.template, getattr(model.tokenizer, "chat_template", None)),
        visual_tokens=model.model.visual_tokens_of_video,
        visual_token_id=max(len(model.tokenizer), model.model.llm.config.vocab_size),  # pyrefly: ignore[missing-attribute]
        pad_token_id=model.tokenizer.pad_token_id,
        qformer_vocabulary=None if reader is None else reader.words(),
        qformer_context=512 if reader is None else reader.context,
    ).save_pretrained(folder)
    return "a processor with tokenizer, chat template and the frames and pixels of the run's evaluation"


@torch.no_grad()
def compare(model: Converse, theirs: "TubeletChatForConditionalGeneration") -> float:
    """Largest difference of the logits on a random video and text; ValueError if it is more than rounding."""
    e, rows = model.model.encoder, model.row_encoder
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(1, 3, e.frames, e.size, e.size, generator=generator)
    row = rows.row([("what is it ?", "a test", "look")], None, size=(e.size, e.size))
    chat = collate([tokens_of(row)], model.tokenizer.pad_token_id)
    reads, visible = model.read_ids([row])
    ids = chat.ids.index_fill(1, chat.slots, theirs.config.visual_token_id)
    given = theirs.eval()(ids, video.transpose(1, 2), None, reads, None if visible is None else visible.long())
    expected = model.model.eval().logits(chat, model.model.visual_tokens(video, reads, visible))
    return require_close((given.logits - expected).abs().max().item(), "model")


def to_official(model: Converse) -> tuple[dict[str, Tensor], list[str]]:
    """The state in the official layout of VideoChat2, or of VideoChat, and our names that have no counterpart."""
    families: dict[str, Family] = {"vicuna": "llama", "mistral": "mistral", "phi3": "phi"}
    template = model.row_encoder.template
    if template not in families:
        raise ValueError(
            "the official layout is that of Vicuna, Mistral and Phi-3: export to safetensors or transformers"
        )
    left_out = STANDS_ON, "positions.table"
    state = {name: tensor for name, tensor in model.model.state_dict().items() if not name.endswith(left_out)}
    return official_names(state, families[template], not isinstance(model.model.encoder, VideoViT))
