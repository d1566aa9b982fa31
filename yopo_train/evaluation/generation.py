"""Answers of a model to a batch of prompts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..models import model_inputs


@torch.no_grad()
def generate_answers(
    model: nn.Module, processor: Any, batch: dict[str, Any], max_new_tokens: int, use_cache: bool = True
) -> list[str]:
    """Greedy answers.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        In evaluation mode, pruned or not.
    processor : ProcessorMixin
        Decodes the answers.
    batch : dict
        **Left** padded prompts on the model's device: ``input_ids`` and ``attention_mask`` ``(batch, tokens)``, image
        inputs.
    max_new_tokens : int
        An answer ends here if the model has not ended it before.
    use_cache : bool
        Keep keys and values from token to token. The reference backend of `prune` cannot.

    Returns
    -------
    list of str
        One answer a prompt: new tokens only, no special tokens, no surrounding space.

    Raises
    ------
    ValueError
        The batch is right padded: the model would continue the padding.
    """
    inputs = model_inputs(batch)
    if not inputs["attention_mask"][:, -1].all():
        raise ValueError("prompts must be left padded")
    tokenizer, config = processor.tokenizer, model.generation_config
    tokens = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=use_cache,
        eos_token_id=config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    new = tokens[:, inputs["input_ids"].shape[1] :]
    return [answer.strip() for answer in tokenizer.batch_decode(new, skip_special_tokens=True)]
