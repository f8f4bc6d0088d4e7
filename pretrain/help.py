"""The first page of help: the options that matter, shown at once; `--help=all` lists every option of the parser."""

import sys

COMMANDS = {
    "fit": "train a model by a recipe",
    "validate": "evaluate on the validation set",
    "test": "evaluate on the test set: a table, JSON and pictures in the run folder",
    "predict": "write features of videos, an index, or films",
    "export": "write trained weights for transformers, as safetensors, or in the official layout",
    "plan": "memory, time and cores of a run, before it is booked",
    "show": "a page of what a step sees",
    "replay": "run one step of a run again",
    "weights": "official releases by name",
}

_TRAINING = """\
  -c RECIPE                       a recipe or fragment, by name (videomae_b, data/shards) or file; later ones override
  --data PATH                     videos: a folder, a list, shards or an address; --data.val PATH for validation
  --weights WHAT                  to start from: a path, a name (tubelet weights), hf://OWNER/NAME/FILE, an address
  --ckpt_path last|auto|FILE      resume; auto starts anew where there is nothing to resume

  --trainer.max_steps N           length of the run, or --data.passes N over the data
  --data.global_batch N           videos of a step, over all devices
  --data.micro_batch N            videos of a device at a time; accumulation follows
  --data.frames N  --data.size N  of a clip
  --data.workers N                loading processes of a device
  --model.optim.base_lr X         rate for 256 videos; or --model.optim.lr X, for the batch as it is
  --model.recompute true          less memory for more time; --model.compile true: faster steps on GPUs
  --trainer.precision bf16-mixed  on GPUs
  --trainer.devices N             and -c trainer/gpu8, ddp, fsdp, deepspeed_zero2, slurm
  --trainer.logger.name NAME      the run's folder in runs/
  --trainer.callbacks+=EMA        averaged weights
  --trainer.val_check_interval N  steps between validations
  --seed_everything N             of the data, the masks and the weights
"""
_EVALUATION = """\
  -c RECIPE                       of the model, of the data (data/msrvtt), of the evaluation (eval/retrieval)
  --data PATH                     videos: a folder, a list, shards or an address
  --ckpt_path RUN|FILE|last       trained weights; or --weights WHAT: a path, a name (tubelet weights), hf://...
  --data.micro_batch N            videos of a device at a time
  --data.workers N                loading processes of a device
  --trainer.devices N             ranks share the videos; no result depends on their number
  --trainer.precision bf16-mixed  on GPUs
"""
_PREDICT = "  --out FOLDER                    where features are written\n"
_REST = """
  --print_config                  the whole configuration, with all defaults, and nothing else
  --debug                         where an error came from
  --help=all                      all options;  --model.help CLASS, --data.help CLASS: of one class
"""
_PAGES = {"fit": _TRAINING, "validate": _EVALUATION, "test": _EVALUATION, "predict": _EVALUATION + _PREDICT}


def answers_help(words: list[str]) -> bool:
    """Prints the first page if the words of a command ask for it; whether they did."""
    if not words or words in (["-h"], ["--help"]):
        listed = "\n".join(f"  {name.ljust(10)}{what}" for name, what in COMMANDS.items())
        print("tubelet COMMAND -c RECIPE [options]; python -m pretrain is the same")
        print(f"\n{listed}\n\n`tubelet COMMAND --help` for each")
        return True
    if words[0] not in _PAGES or not {"-h", "--help"} & set(words[1:]):
        return False
    print(f"tubelet {words[0]} -c RECIPE [options]: {COMMANDS[words[0]]}\n\n{_PAGES[words[0]]}{_REST}", end="")
    return True


def for_parser(words: list[str]) -> list[str]:
    """The words with `--help=all` as the parser's own `--help`."""
    return ["--help" if word == "--help=all" else word for word in words]


def main() -> None:
    """The command; its parser and all packages are imported only if it needs more than this page."""
    from pretrain.errors import reports_errors

    if code := reports_errors(_run)():
        sys.exit(code)


def _run(words: list[str]) -> int:
    if answers_help(words):
        return 0
    from pretrain.cli import main as command

    command(for_parser(words))
    return 0
