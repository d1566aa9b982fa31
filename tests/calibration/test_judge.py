"""Plans judged by the model's answers: by the definition, in any batch, on several ranks; the model stays as it was."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from toy import IMAGE_TOKEN, random_plan, toy_batch, toy_dims, toy_llava
from transformers import LlavaForConditionalGeneration

from yopo_train.calibration.judge import OutputJudge
from yopo_train.calibration.judging import JudgingModule
from yopo_train.errors import UserError
from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune, unprune

SAMPLES = [[2, "image", 4], ["image", 3], [3, "image", 1, "image", 2], [5]]
NEW = 4


def judge_of(model, batches, answer_tokens: int = NEW) -> OutputJudge:
    judge = OutputJudge(model, answer_tokens)
    for batch in batches:
        judge.add(batch)
    return judge


def one_by_one(seed: int = 0) -> list[dict]:
    """One batch a sample: nothing is padded."""
    return [toy_batch([sample], seed=seed + number) for number, sample in enumerate(SAMPLES)]


def together(batches: list[dict]) -> dict:
    """The same samples as one left padded batch."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    padded = {
        name: torch.cat([torch.nn.functional.pad(b[name], (longest - b[name].shape[1], 0)) for b in batches])
        for name in ("input_ids", "attention_mask")
    }
    return {**padded, "pixel_values": torch.cat([b["pixel_values"] for b in batches if "pixel_values" in b])}


def by_definition(model, batch: dict, plan: PruningPlan) -> tuple[float, int, int]:
    """Sum of KL, agreements and tokens of one unpadded sample, token by token."""
    ids, pixels = batch["input_ids"], {k: v for k, v in batch.items() if k == "pixel_values"}
    answer = []
    for _ in range(NEW):
        whole = torch.cat((ids, torch.tensor([answer], dtype=torch.long)), 1)
        answer.append(int(model(input_ids=whole, **pixels).logits[0, -1].argmax()))
        if answer[-1] == model.config.text_config.eos_token_id:
            break
    whole, start = torch.cat((ids, torch.tensor([answer])), 1), ids.shape[1] - 1
    base = model(input_ids=whole, **pixels).logits[0, start:-1].log_softmax(-1)
    prune(model, plan, backend="reference")
    pruned = model(input_ids=whole, **pixels).logits[0, start:-1].log_softmax(-1)
    unprune(model)
    kl = (base.exp() * (base - pruned)).sum()
    return float(kl), int((base.argmax(-1) == pruned.argmax(-1)).sum()), len(answer)


@torch.no_grad()
def test_judgements_are_mean_kl_and_agreement_of_the_bases_own_answers():
    model = toy_llava(2)
    plan = random_plan(toy_dims(model), depth=3, radius=1)
    sums = [sum(values) for values in zip(*(by_definition(model, b, plan) for b in one_by_one()), strict=True)]
    judge = judge_of(model, one_by_one())
    judged = judge(plan)
    assert judged.kl == pytest.approx(sums[0] / sums[2], rel=1e-4) and judged.kl > 0.01
    assert judged.agreement == pytest.approx(sums[1] / sums[2])
    assert (judge.tokens, judge.samples) == (sums[2], 4)


def test_batches_and_padding_do_not_matter():
    model = toy_llava(2)
    plan = random_plan(toy_dims(model), depth=3, radius=1)
    apart, batched = judge_of(model, one_by_one()), judge_of(model, [together(one_by_one())])
    assert batched(plan) == pytest.approx(apart(plan), rel=1e-4)
    assert batched.tokens == apart.tokens


def test_a_plan_that_prunes_nothing_changes_nothing():
    model = toy_llava()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    replaced = ("forward", "get_image_features", "yopo_state")
    attributes = {name: [item in vars(part) for item in replaced] for name, part in model.named_modules()}
    judge = judge_of(model, one_by_one())
    assert judge(PruningPlan.dense(toy_dims(model))) == (0.0, 1.0)
    judge(random_plan(toy_dims(model), depth=2, radius=0))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {name: [item in vars(part) for item in replaced] for name, part in model.named_modules()} == attributes


def test_the_vision_tower_runs_once_for_all_plans():
    model, calls = toy_llava(), []
    judge = judge_of(model, one_by_one())
    model.model.vision_tower.register_forward_hook(lambda *args: calls.append(1))
    for seed in range(3):
        judge(random_plan(toy_dims(model), depth=3, radius=1, seed=seed))
    assert not calls


def test_fewer_samples_are_the_first_batches():
    model = toy_llava()
    plan = random_plan(toy_dims(model), depth=3, radius=1)
    judge, first = judge_of(model, one_by_one()), judge_of(model, one_by_one()[:2])
    assert judge(plan, samples=2) == first(plan) != judge(plan)
    whole = judge_of(model, [together(one_by_one())])
    for samples in (1, 2, 3, 4, 9):  # a batch that holds more is not counted whole
        assert whole(plan, samples) == pytest.approx(judge(plan, samples), rel=1e-4)


def test_a_plan_that_overflows_is_the_worst():
    model = toy_llava()
    judge = judge_of(model, one_by_one()[:2])
    handle = model.lm_head.register_forward_hook(lambda module, args, output: output * torch.nan)
    assert judge(PruningPlan.dense(toy_dims(model))).kl == float("inf")
    handle.remove()


@pytest.mark.parametrize("places", [{"": "disk"}, "part"])
def test_a_model_whose_weights_are_offloaded(places, tmp_path, recwarn):
    model = toy_llava(2)
    model.save_pretrained(tmp_path / "model")
    if places == "part":
        language_model = [f"language_model.{name}" for name in ("embed_tokens", "norm", "rotary_emb", "layers.0")]
        here = [f"model.{name}" for name in ("vision_tower", "multi_modal_projector", *language_model)]
        away = [*(f"model.language_model.layers.{number}" for number in (1, 2, 3)), "lm_head"]
        places = dict.fromkeys(here, "cpu") | dict.fromkeys(away, "disk")
    options = {"device_map": places, "offload_folder": tmp_path / "away"}
    offloaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model", **options)
    assert any(weight.is_meta for weight in offloaded.parameters())
    plan = random_plan(toy_dims(model), depth=3, radius=1)
    here, away = judge_of(model, one_by_one()), judge_of(offloaded, one_by_one())
    assert away(plan) == pytest.approx(here(plan), rel=1e-4) and away.tokens == here.tokens
    assert not [warning for warning in recwarn if "cannot be sliced" in str(warning.message)]


def test_right_padding_and_pruned_models_are_refused():
    model = toy_llava()
    right = toy_batch([[2, "image", 4], ["image", 1]], padding="right")
    with pytest.raises(UserError, match="right padded, expected left padding"):
        OutputJudge(model).add(right)
    prune(model, random_plan(toy_dims(model), depth=3, radius=1))
    with pytest.raises(UserError, match="found a pruned one"):
        OutputJudge(model)


def test_a_model_that_names_no_end_of_an_answer():
    model = toy_llava()
    model.config.text_config.eos_token_id = model.generation_config.eos_token_id = None
    with pytest.raises(UserError, match="eos_token_id"):
        OutputJudge(model).add(toy_batch([[2, "image", 4]]))


class TwoRanks(JudgingModule):
    """Each rank reads its own batches; rank 0 leaves what was found in a file."""

    def __init__(self, path) -> None:
        model = toy_llava(2)
        plan = random_plan(toy_dims(model), depth=3, radius=1)
        super().__init__(model, lambda judge: (judge(plan), judge.samples, judge.tokens), NEW)
        self.path = path

    def val_dataloader(self) -> DataLoader:
        batches = one_by_one()
        return DataLoader(batches[:3] if self.trainer.is_global_zero else batches[3:], batch_size=None)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.trainer.is_global_zero:
            torch.save([*self.result[0], *self.result[1:]], self.path)


def test_two_ranks_judge_as_one(tmp_path):
    module = TwoRanks(tmp_path / "judged")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", use_distributed_sampler=False, **quiet)
    trainer.validate(module, verbose=False)
    model = toy_llava(2)
    judge = judge_of(model, one_by_one())
    single = judge(random_plan(toy_dims(model), depth=3, radius=1))
    assert torch.load(module.path) == pytest.approx([*single, judge.samples, judge.tokens], rel=1e-5)
    assert (one_by_one()[3]["input_ids"] != IMAGE_TOKEN).all()  # the second rank has no image at all
