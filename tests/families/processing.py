"""A tokenizer with the toys' ids, and a chat template, for processors of the real classes."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .common import FIRST_TEXT, VOCABULARY

WORDS = ("USER:", "ASSISTANT:", "a", "b", "c", "yes", "no")


def toy_tokenizer(special: dict[str, tuple[str, int]]) -> PreTrainedTokenizerFast:
    """Words and ``<unk>``.

    Parameters
    ----------
    special
        By the name of the tokenizer's attribute, the token and its id.
    """
    names = {0: "<pad>", 1: "<s>", 2: "</s>", **{number: token for token, number in special.values()}}
    names |= {FIRST_TEXT + i: word for i, word in enumerate(("<unk>", *WORDS))}
    vocabulary = {names.get(i, f"<{i}>"): i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={name: token for name, (token, _) in special.items()},
    )


def chat_template(image_token: str) -> str:
    """Turns of LLaVA-1.5's form, with `</s>` behind each answer."""
    return (
        "{% for message in messages %}"
        "{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
        "{% for part in message['content'] %}"
        "{{ '" + image_token + " ' if part['type'] == 'image' else part['text'] + ' ' }}"
        "{% endfor %}"
        "{{ '</s> ' if message['role'] == 'assistant' }}"
        "{% endfor %}"
        "{{ 'ASSISTANT: ' if add_generation_prompt }}"
    )
