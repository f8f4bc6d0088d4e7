"""Official releases of weights by name: what each is, where its owners put it, and under which licence.

A place is the owners' own: `hf://OWNER/NAME/FILE` (or a whole folder, without a file) or an address. Where a licence or
a hash is not stated by the owners, it is not stated here. `models.fetch` downloads them.
"""

from dataclasses import dataclass

_HUB = "hf://OpenGVLab"
_UMT = "https://pjlab-gvm-data.oss-cn-shanghai.aliyuncs.com/umt/single_modality"  # the owners' links, some of them dead
_CLIP = "https://openaipublic.azureedge.net/clip/models"  # the folder's name is the file's SHA-256


@dataclass(frozen=True)
class Release:
    """One released set of weights.

    Args:
        method: whose it is, in our names.
        size: of the model, in its paper's words.
        trained: on what, and how far.
        place: `hf://OWNER/NAME[/FILE]`, or an http(s) address.
        licence: of the weights; None: their owners state none.
        sha256: of the file; None: unknown, or kept by the hub.
    """

    method: str
    size: str
    trained: str
    place: str
    licence: str | None = None
    sha256: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a whole repository of the hub, which transformers or diffusers reads."""
        return self.place.startswith("hf://") and self.place.count("/") == 3


def _clip(size: str, digest: str, file: str) -> Release:
    return Release("CLIP", size, "OpenAI's 400 M pairs", f"{_CLIP}/{digest}/{file}", "MIT", digest)


def _umt(size: str, trained: str, file: str) -> Release:
    return Release("UMT", size, trained, f"{_UMT}/{file}.pth")


def _umt2(size: str, pairs: str) -> Release:
    return Release(
        "UMT stage 2", f"{size}/16", f"{pairs} pairs", f"{_HUB}/UMT/multi_modality/{size.lower()}16_{pairs.lower()}.pth"
    )


_OPEN_RAIL = "CreativeML OpenRAIL-M"
_LAVIE = "research and commercial use, by its README"

RELEASES: dict[str, Release] = {
    # VideoMAEv2/docs/MODEL_ZOO.md; VideoMAEv2 issue 67, InternVideo issue 161
    "videomae_v2_g": Release(
        "VideoMAE V2",
        "g/14",
        "UnlabeledHybrid, 1200 passes",
        f"{_HUB}/InternVideoMAE_models/mae-g/vit_g_hybrid_pt_1200e.pth",
    ),
    "videomae_v2_g_k710": Release(
        "VideoMAE V2",
        "g/14",
        "fine-tuned on K710",
        f"{_HUB}/InternVideoMAE_models/mae-g/vit_g_hybrid_pt_1200e_k710_ft.pth",
    ),
    "videomae_v2_g_ssv2": Release(
        "VideoMAE V2",
        "g/14",
        "fine-tuned on SSv2",
        f"{_HUB}/InternVideoMAE_models/mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
    ),
    "videomae_v2_b_k710": Release(
        "VideoMAE V2", "B/16", "distilled from g on K710", f"{_HUB}/VideoMAE2/distill/vit_b_k710_dl_from_giant.pth"
    ),
    "videomae_v2_s_k710": Release(
        "VideoMAE V2", "S/16", "distilled from g on K710", f"{_HUB}/VideoMAE2/distill/vit_s_k710_dl_from_giant.pth"
    ),
    # InternVideo1/README.md
    "videomae_b_hybrid": Release(
        "VideoMAE", "B/16", "UnlabeledHybrid, 800 passes", f"{_HUB}/InternVideoMAE_models/mae-b/pytorch_model.bin"
    ),
    "videomae_l_hybrid": Release(
        "VideoMAE", "L/16", "UnlabeledHybrid, 800 passes", f"{_HUB}/InternVideoMAE_models/mae-l/pytorch_model.bin"
    ),
    "videomae_h_hybrid": Release(
        "VideoMAE", "H/16", "UnlabeledHybrid", f"{_HUB}/InternVideoMAE_models/mae-h/pytorch_model.bin"
    ),
    # unmasked_teacher/single_modality/MODEL_ZOO.md
    "umt_b": _umt("B/16", "K710, 200 passes", "b16_ptk710_f8_res224"),
    "umt_l": _umt("L/16", "K710, 200 passes", "l16_ptk710_f8_res224"),
    "umt_b_k710": _umt("B/16", "fine-tuned on K710", "b16_ptk710_ftk710_f8_res224"),
    "umt_l_k710": _umt("L/16", "fine-tuned on K710", "l16_ptk710_ftk710_f8_res224"),
    "umt_b_k400": _umt("B/16", "fine-tuned on K710, K400", "b16_ptk710_ftk710_ftk400_f8_res224"),
    "umt_l_k400": _umt("L/16", "fine-tuned on K710, K400", "l16_ptk710_ftk710_ftk400_f8_res224"),
    "umt_l_k400_f16": _umt("L/16", "fine-tuned on K710, K400, 16 frames", "l16_ptk710_ftk710_ftk400_f16_res224"),
    "umt_b_ssv2": _umt("B/16", "fine-tuned on SSv2", "b16_ptk710_ftk710_ftssv2_f8_res224"),
    "umt_l_ssv2": _umt("L/16", "fine-tuned on SSv2", "l16_ptk710_ftk710_ftssv2_f8_res224"),
    # unmasked_teacher/multi_modality/MODEL_ZOO.md, moved to the hub
    **{f"umt2_{size}_{pairs}": _umt2(size.upper(), pairs.upper()) for size in "bl" for pairs in ("5m", "17m", "25m")},
    # Data/InternVid/README.md
    "viclip_l": Release("ViCLIP", "L/14", "InternVid-10M-FLT", f"{_HUB}/ViCLIP/ViClip-InternVid-10M-FLT.pth"),
    "viclip_l_hf": Release("ViCLIP", "L/14", "InternVid-10M-FLT", f"{_HUB}/ViCLIP-L-14-hf"),
    "viclip_b_hf": Release("ViCLIP", "B/16", "InternVid-10M-FLT", f"{_HUB}/ViCLIP-B-16-hf"),
    # Ask-Anything/video_chat2/README.md
    "videochat2_align": Release("VideoChat2", "UMT-L, Q-Former", "stage 1", f"{_HUB}/videochat/umt_l16_qformer.pth"),
    "videochat2_connect_vicuna": Release("VideoChat2", "7B", "stage 2", f"{_HUB}/videochat/videochat2_7b_stage2.pth"),
    "videochat2_instruct_vicuna": Release("VideoChat2", "7B", "stage 3", f"{_HUB}/videochat/videochat2_7b_stage3.pth"),
    "videochat2_connect_mistral": Release(
        "VideoChat2", "7B", "stage 2", f"{_HUB}/VideoChat2_stage2_Mistral_7B/videochat2_mistral_7b_stage2.pth"
    ),
    "videochat2_instruct_mistral": Release(
        "VideoChat2", "7B", "stage 3", f"{_HUB}/VideoChat2_stage3_Mistral_7B/videochat2_mistral_7b_stage3.pth"
    ),
    "videochat2_hd": Release(
        "VideoChat2", "7B", "stage 4", f"{_HUB}/VideoChat2_HD_stage4_Mistral_7B/videochat2_hd_mistral_7b_stage4.pth"
    ),
    # LaVie/README.md
    "lavie_base": Release("LaVie", "base", "WebVid-10M, Vimeo-25M", "hf://YaohuiW/LaVie/lavie_base.pt", _LAVIE),
    "lavie_interpolation": Release(
        "LaVie", "interpolation", "WebVid-10M", "hf://YaohuiW/LaVie/lavie_interpolation.pt", _LAVIE
    ),
    "lavie_vsr": Release("LaVie", "super-resolution", "WebVid-10M", "hf://YaohuiW/LaVie/lavie_vsr.pt", _LAVIE),
    "stable_diffusion_1_4": Release(
        "Stable Diffusion", "1.4", "LAION", "hf://CompVis/stable-diffusion-v1-4", _OPEN_RAIL
    ),
    "stable_diffusion_x4": Release(
        "Stable Diffusion",
        "x4 upscaler",
        "LAION",
        "hf://stabilityai/stable-diffusion-x4-upscaler",
        "CreativeML OpenRAIL++-M",
    ),
    # What the methods start from, or are taught by
    "clip_b32": _clip("B/32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", "ViT-B-32.pt"),
    "clip_b16": _clip("B/16", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", "ViT-B-16.pt"),
    "clip_l14": _clip("L/14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", "ViT-L-14.pt"),
    "bert_base": Release("BERT", "base", "uncased", "hf://google-bert/bert-base-uncased", "Apache-2.0"),
    "bert_large": Release("BERT", "large", "uncased", "hf://google-bert/bert-large-uncased", "Apache-2.0"),
    "mistral_7b": Release("Mistral", "7B", "Instruct v0.2", "hf://mistralai/Mistral-7B-Instruct-v0.2", "Apache-2.0"),
}
