"""A tiny image captioning model of random weights, in a folder of transformers."""

from pathlib import Path

WORDS = ("a", "cat", "runs")


def save_blip(folder: Path) -> str:
    """A BLIP whose captions consist of `WORDS`; returns the folder."""
    import transformers

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = transformers.BlipConfig(
        text_config={**shape, **tokens, "vocab_size": 8, "encoder_hidden_size": 16},
        vision_config={**shape, "image_size": 32, "patch_size": 16},
    )
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)
