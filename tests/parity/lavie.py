"""The parts of LaVie's networks against the official code: attention, positions, blocks."""

from torch import Tensor, nn

from models.convert import lavie as names
from models.diffusion.attention import SparseCausalAttention
from models.diffusion.resblock import TemporalModule, TemporalResBlock
from models.diffusion.temporal_attention import TemporalAttention, relative_buckets, rotary_freqs, rotate
from models.diffusion.transformer import TransformerBlock
from tests.parity import checks
from tests.parity.case import Case, Record

ATTENTION_OFF = {"num_attention_layers": 1, "attention_block_types": ["", ""]}


def tolerance(record: Record, key: str = "tolerance") -> dict[str, float]:
    """An absolute tolerance of the case."""
    return {"atol": record[key], "rtol": 0}


def relative(record: Record, expected: Tensor) -> dict[str, float]:
    """A tolerance relative to the largest value of the expected tensor."""
    return {"atol": record["tolerance_rel"] * expected.abs().max().item(), "rtol": 0}


def load(case: Case, module: nn.Module, prefix: str) -> nn.Module:
    """Load the official weights `PREFIX.state.*` into one of our modules; every one of them must have its place."""
    stem = f"{prefix}.state."
    official = {name.removeprefix(stem): case[name] for name in case.names() if name.startswith(stem)}
    angles = names.constant_names(official, prefix)
    module.load_state_dict({names.our_name(n): tensor for n, tensor in official.items() if n not in angles})
    return module.eval()


@checks("rel_pos_buckets")
def buckets(case: Case) -> None:
    for c in case.facts["cases"]:
        case.equal(c["key"], relative_buckets(c["frames"], c["num_buckets"], c["max_distance"]))


@checks("rotary")
def rotary(case: Case) -> None:
    for c in case.facts["cases"]:
        x, freqs = case[c["x"]], rotary_freqs(c["rot_dim"])
        case.sizes(c, head_dim=x.shape[-1], frames=x.shape[-2])
        case.close(c["freqs"], freqs, tolerance(case.facts))
        case.close(c["y"], rotate(x, freqs), tolerance(case.facts))


@checks("temporal_attention")
def temporal_attention(case: Case) -> None:
    for c in case.facts["cases"]:
        prefix, width = c["prefix"], c["query_dim"]
        attention = TemporalAttention(width, c["heads"], c["rotary_dim"], c["num_buckets"], c["max_distance"])
        load(case, attention, prefix)
        x = case[f"{prefix}.x"]
        case.sizes(c, frames=x.shape[1], batch=x.shape[0], dim_head=width // c["heads"])
        case.close(f"{prefix}.bias", lambda attention=attention, x=x: attention.bias(x.shape[1]), tolerance(case.facts))
        case.close(f"{prefix}.y", attention(x[:, :, None])[:, :, 0], tolerance(case.facts))


@checks("sparse_causal_attention")
def sparse_causal(case: Case) -> None:
    for c in case.facts["cases"]:
        prefix = c["prefix"]
        attention = load(case, SparseCausalAttention(c["dim"], c["heads"]), prefix)
        x = case[f"{prefix}.x"]
        case.sizes(c, tokens=x.shape[1], batch=len(x) // c["frames"])
        case.close(f"{prefix}.y", attention(x.unflatten(0, (-1, c["frames"]))).flatten(0, 1), tolerance(case.facts))


@checks("transformer_block")
def transformer_block(case: Case) -> None:
    """In training images skip the attention over time. In evaluation the official code has no images."""
    for c in case.facts["cases"]:
        prefix, images = c["prefix"], c["images"]
        block = load(case, TransformerBlock(c["dim"], c["heads"], c["ctx"]), prefix)
        assert c["train"] or not images, "the official block lets images into the attention over time in evaluation"
        frames = c["frames"] + images
        x, text = (case[f"{prefix}.{name}"].unflatten(0, (-1, frames)) for name in ("x", "ctx"))
        case.sizes(c, tokens=x.shape[2], batch=len(x), dim_head=c["dim"] // c["heads"], ctx_len=text.shape[2])
        case.close(f"{prefix}.y", block(x, text, images).flatten(0, 1), tolerance(case.facts))


@checks("vsr_units")
def vsr_units(case: Case) -> None:
    check_attention_off(case, case.facts)
    for c in case.facts["cases"]:
        prefix, channels, embedding = c["prefix"], c["channels"], c["temb_channels"]
        if c["kind"] == "resblock_t":
            module: nn.Module = TemporalResBlock(channels, c["kernel_t"], embedding)
        else:
            assert c["kind"] == "temporal_module", c["kind"]
            module = TemporalModule(channels, embedding, c["kernel_t"])
        load(case, module, prefix)
        x = case[f"{prefix}.x"]
        case.sizes(c, batch=x.shape[0], frames=x.shape[2], height=x.shape[3], width=x.shape[4])
        time = case.get(f"{prefix}.temb")
        case.close(f"{prefix}.y", module(x) if time is None else module(x, time), tolerance(case.facts))


def check_attention_off(case: Case, record: Record) -> None:
    """The attention of the temporal modules is off; the other options of their attention then mean nothing."""
    if "temporal_module_config" in record:
        options = record["temporal_module_config"]
        for key, value in ATTENTION_OFF.items():
            case.fact(options, key, value)
        options.plain()
