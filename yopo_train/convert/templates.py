"""Chat templates that the original models' own ``conversation.py`` describe, as Jinja.

The messages' contents are a string, or parts of the types "image" and "text".
"""
# ruff: noqa: RUF001 (the system messages are Chinese)

from __future__ import annotations

from dataclasses import dataclass

_INTERNVL2_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_INTERNVL2_5_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Turns:
    """A template whose turns all have one form: ``start`` + role + line break + message + ``end``.

    Parameters
    ----------
    start : str
        With "{role}" for the role's name.
    end : str
        Behind every message; without white space it is the token that ends generation.
    system : str
        The system message where the conversation brings none.
    """

    start: str
    end: str
    system: str

    @property
    def stop_token(self) -> str:
        """The token that ends an answer."""
        return self.end.strip()

    def jinja(self, image: str) -> str:
        """The template; ``image`` is what the processor replaces by an image's tokens."""
        start = "{{ '" + _quoted(self.start).replace("{role}", "' + message['role'] + '") + "' }}"
        first = _quoted(self.start.format(role="system") + self.system + self.end)
        return (
            "{% if not messages or messages[0]['role'] != 'system' %}{{ '" + first + "' }}{% endif %}"
            "{% for message in messages %}"
            + start
            + content(image)
            + "{{ '"
            + _quoted(self.end)
            + "' }}{% endfor %}"
            + "{{ '"
            + _quoted(self.start.format(role="assistant"))
            + "' if add_generation_prompt }}"
        )


def content(image: str) -> str:
    """The Jinja of one message's content."""
    return (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{{ '" + image + "\\n' if part['type'] == 'image' else part['text'] if part['type'] == 'text' }}"
        "{% endfor %}{% endif %}"
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")


_CHATML = "<|im_start|>{role}\n"
INTERNVL_TEMPLATES = {
    "internlm2-chat": Turns(_CHATML, "<|im_end|>", _INTERNVL2_SYSTEM),
    "Hermes-2": Turns(_CHATML, "<|im_end|>", _INTERNVL2_SYSTEM),
    "phi3-chat": Turns("<|{role}|>\n", "<|end|>", _INTERNVL2_SYSTEM),
    "internvl2_5": Turns(_CHATML, "<|im_end|>\n", _INTERNVL2_5_SYSTEM),
}
"""By the name in the field ``template`` of InternVL's ``config.json``."""

VICUNA = (
    "{% if messages and messages[0]['role'] == 'system' %}{% set system = messages[0] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = none %}{% set turns = messages %}{% endif %}"
    "{% if system is none %}{{ '" + _quoted(VICUNA_SYSTEM) + " ' }}"
    "{% else %}{% set message = system %}" + content("<image>") + "{{ ' ' }}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}" + content("<image>") + "{{ ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' }}" + content("<image>") + "{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{{ 'ASSISTANT:' if add_generation_prompt }}"
)
"""LLaVA-1.5's ``conv_vicuna_v1``; answers end with ``</s>``."""
