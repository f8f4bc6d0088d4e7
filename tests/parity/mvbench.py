"""MVBench and VideoChat2's data against the official code: frames, conversations, prompts, matchers, averages."""

import random

import numpy as np

from datamodules.clips import sampling
from datamodules.clips.chat_sampling import centres, demo_centres, every_period, times_in_words
from models.chat.templates import Conversation, Mistral, Phi3, Turn, Vicuna, as_text
from pretrain.metrics import mvbench_rules as rules
from tests.parity import checks
from tests.parity.case import Case, Record
from tests.parity.chat import WORDS

PLACE = "<VideoHere>"
ITEM = dict.fromkeys(("cases.item.video", "cases.item.start", "cases.item.end", "cases.item.subtitle"), "no text")
FUNCTIONS = dict.fromkeys(
    ("fn.mvbench", "fn.demo_uniform", "fn.train_*", "fn.timestamp_message", "fn.vlmevalkit_*"),
    "where each rule is from",
)
TEMPLATES = {"vicuna": Vicuna(), "mistral": Mistral(), "phi": Phi3()}


@checks("chat_frame_indices", not_needed=WORDS | FUNCTIONS)
def frame_indices(case: Case) -> None:
    for c in case.facts["cases"]:
        name = c["fn"]
        if name == "timestamp_message":
            case.fact(c, "message", times_in_words(c["indices"], c["fps"]))
        elif name == "train_rand_bounds":
            drawn = np.array([_drawn(c, seed) for seed in range(400)])
            case.fact(c, "min_seen", drawn.min(0).tolist())
            case.fact(c, "max_seen", drawn.max(0).tolist())
        else:
            case.fact(c, "indices", _indices(name, c).tolist())


def _drawn(c: Record, seed: int) -> np.ndarray:
    return sampling.sparse_released(c["vlen"], c["num_frames"], random.Random(seed), np.random.RandomState(seed))


def _indices(name: str, c: Record) -> np.ndarray:
    if name in ("mvbench", "vlmevalkit_mp4_by_frame"):
        bound, first = c.get("bound"), c.get("first_idx", 0)
        length = c["max_frame"] + 1 - first
        part = None if bound is None else tuple(bound)
        return centres(length, c["num_segments"], c.get("fps", 1.0), part, first, clamp=False)
    if name == "demo_uniform":
        return demo_centres(c["num_frames"], c["num_segments"])
    if name == "vlmevalkit_mp4_by_fps":
        return every_period(c["total_frames"], c["video_fps"], c["fps"])
    if name == "train_fps":
        most = c["max_num_frames"]
        assert c["num_frames"] > 0  # not used by this rule
        rate = float(c["sample"].removeprefix("fps"))
        return sampling.per_second(c["vlen"], c["input_fps"], rate, most if most > 0 else None)
    if name == "train_fix_start":
        return sampling.sparse_first(c["vlen"], c["num_frames"], c["fix_start"])
    assert name == "train_middle", name
    return sampling.sparse(c["vlen"], c["num_frames"])


@checks("chat_conversations", not_needed=WORDS)
def conversations(case: Case) -> None:
    for c in case.facts["cases"]:
        pairs, media = [(pair["q"], pair["a"], pair.get("i", "")) for pair in c["QA"]], (c["media"],)
        instruction, message = pairs[0][2], c["msg"]
        for name, template in TEMPLATES.items():
            first = Turn(*pairs[0][:2], media, message)
            turns = [first, *(Turn(question, answer) for question, answer, _ in pairs[1:])]
            conversation = Conversation(tuple(turns), instruction)
            check_strings(case, c, name, template, conversation)
        turns = [Turn(question, answer) for question, answer, _ in pairs]
        check_strings(case, c, "mistral_text_only", Mistral(), Conversation(tuple(turns), instruction))


def check_strings(case: Case, c: Record, name: str, template: object, conversation: Conversation) -> None:
    if name in c:
        case.fact(c[name], "conversation", as_text(template.segments(conversation)))
        case.fact(c[name], "qformer_instruction", template.qformer_text(conversation))


@checks("mvbench_prompts", not_needed=WORDS | ITEM)
def prompts(case: Case) -> None:
    settings = case.facts["infer_kwargs"]
    case.fact(settings, "system", rules.SYSTEM)
    case.fact(settings, "question_prompt", rules.QUESTION_END)
    case.fact(settings, "answer_prompt", rules.ANSWER_PREFIX)
    case.fact(settings, "return_prompt", rules.RETURN_PREFIX)
    assert settings["system_llm"] and not settings["system_q"] and settings["print_res"]
    for c in case.facts["cases"]:
        item = c["item"]
        asked, right = (item["question"], item["candidates"]), item["answer"]
        case.fact(c, "question_block", rules.question_block(*asked))
        case.fact(c, "answer", rules.gold_answer(asked[1], right, strict=False))
        vicuna = rules.mvbench_segments(Vicuna(released_prompt=True), *asked)
        case.fact(c, "vicuna_prompt", as_text(vicuna, PLACE))
        for release in ("mistral", "mistral_hd"):
            for twice in (True, False):
                said = rules.mvbench_segments(Mistral(released_prompt=True), *asked, system_in_question=twice)
                case.fact(c, f"{release}_prompt_system_llm_{twice}", as_text(said, PLACE))
        phi = rules.mvbench_segments(Phi3(released_prompt=True), *asked, system_in_question=False, system="", prefix="")
        case.fact(c, "phi_style_prompt", as_text(phi, PLACE))
        case.fact(c, "qformer_instruction", rules.SYSTEM)
        if "generation" in c:
            assert not c["generation"]["do_sample"]
            case.fact(c["generation"], "max_new_tokens", rules.MAX_NEW_TOKENS)
        if "pred_from_raw" in c:
            case.fact(c["pred_from_raw"], "pred", rules.reply_of(c["pred_from_raw"]["raw"]))
        case.fact(c, "lmms_eval_text", rules.lmms_question(*asked))
        if "lmms_eval_gt" in c:
            case.fact(c, "lmms_eval_gt", rules.lmms_gold(asked[1], right))


@checks(
    "mvbench_answer_check",
    not_needed=WORDS
    | dict.fromkeys(("official_notebook", "official_hd_strict", "vlmevalkit_exact", "lmms_eval_mcq"), "words"),
)
def answers(case: Case) -> None:
    matchers = {
        "official_notebook": rules.official_match,
        "official_hd_strict": rules.strict_match,
        "vlmevalkit_exact": rules.official_match,
        "lmms_eval_mcq": rules.lmms_match,
    }
    for c in case.facts["cases"]:
        for name, matcher in matchers.items():
            # lmms-eval is given the letter of the right option
            gold = c["gt"][1] if name == "lmms_eval_mcq" else c["gt"]
            try:
                found = matcher(c["pred"], gold)
            except IndexError:
                found = "raises:IndexError"
            case.fact(c, name, found)


@checks("mvbench_aggregate", not_needed=WORDS)
def aggregate(case: Case) -> None:
    counts = case.facts["official_input_correct_total"].plain()
    if "official_result" in case.facts:
        for task, percentage in rules.official_accuracies(counts).items():
            case.fact(case.facts["official_result"], task, percentage, {"atol": 1e-9, "rtol": 0})
    replies = [(r["pred_answer"], r["score"]) for r in case.facts["lmms_eval_input"]]
    case.fact(case.facts, "lmms_eval_result", rules.lmms_accuracy(replies))
