"""The mean over the tokens of an optimizer step: cross-entropy's own where there is one batch, else that of all."""

import pytest
import torch
import torch.nn.functional as F
from toy import toy_llava
from toy_training import labelled_batch

from yopo_train.models import model_inputs
from yopo_train.recovery import LoraOptions, attach_lora
from yopo_train.recovery.loss import TokenSums, cross_entropy
from yopo_train.recovery.token_mean import TokenMean


def gradients(model) -> list[torch.Tensor]:
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def test_one_batch_has_the_plain_mean_bit_by_bit():
    model, batch = attach_lora(toy_llava(layers=2), LoraOptions(r=2)), labelled_batch(labels=(3, 1))
    loss = TokenMean().add(cross_entropy(model, batch))
    loss.backward()
    ours = gradients(model)
    model.zero_grad()
    targets = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    columns = (targets != -100).any(dim=0).nonzero().squeeze(1)
    logits = model(**model_inputs(batch), logits_to_keep=columns, use_cache=False).logits
    plain = F.cross_entropy(logits.float().flatten(0, 1), targets[:, columns].flatten())
    plain.backward()
    assert torch.equal(loss, plain)
    assert ours and all(torch.equal(*pair) for pair in zip(ours, gradients(model), strict=True))


def sums(weight, value: float, tokens: int, **parts: float) -> TokenSums:
    return TokenSums(weight * value, torch.tensor(tokens), {k: torch.tensor(v) for k, v in parts.items()})


@pytest.mark.parametrize("averaged_over", [2, 4])  # an epoch may end in the middle of an accumulation
def test_tokens_of_all_batches_weigh_the_same(averaged_over):
    weight, mean = torch.tensor(1.0, requires_grad=True), TokenMean()
    for _ in range(2):  # two optimizer steps
        for value, tokens in ((6.0, 2), (30.0, 10)):
            (mean.add(sums(weight, value, tokens, kd=2.0)) / averaged_over).backward()
        mean.settle([weight.grad], averaged_over)
        assert float(weight.grad) == pytest.approx(36 / 12)
        assert {name: float(value) for name, value in mean.means.items()} == pytest.approx({"loss": 3, "kd": 4 / 12})
        weight.grad = None


def test_a_batch_without_any_label():
    model, mean = attach_lora(toy_llava(layers=2), LoraOptions(r=2)), TokenMean()
    loss = mean.add(cross_entropy(model, labelled_batch(labels=(0, 0))))
    loss.backward()
    mean.settle(gradients(model), 2)
    assert loss.item() == 0 and all(not gradient.any() for gradient in gradients(model))
    assert len(gradients(model)) == sum(weight.requires_grad for weight in model.parameters())
