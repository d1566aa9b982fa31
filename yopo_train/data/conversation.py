"""From messages with ``<image>`` placeholders to the text that the model's chat template makes of them."""

from __future__ import annotations

from typing import Any

from ..errors import UserError

IMAGE_PLACEHOLDER = "<image>"
"""Where a row's messages say that an image goes, whatever the model's own token is."""

Messages = list[dict[str, str]]


class Chat:
    """The chat template of a processor.

    Templates like LLaVA-1.5's do not close the assistant's turn. A model trained on them would never learn to stop, so
    the tokenizer's end-of-sequence token is then added to each answer, as LLaVA's own training code did.

    Parameters
    ----------
    processor : ProcessorMixin
        Processor with a chat template and a fast tokenizer.

    Raises
    ------
    UserError
        The processor has no chat template.
    """

    def __init__(self, processor: Any) -> None:
        if not getattr(processor, "chat_template", None) and not getattr(processor.tokenizer, "chat_template", None):
            raise UserError(f"the processor ({type(processor).__name__}) has no chat template")
        self.processor = processor
        self.turn_end = ""
        probe = self.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "probe"}])
        tail = probe.rpartition("probe")[2]
        special = [token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special]
        if not any(token in tail for token in special):
            self.turn_end = processor.tokenizer.eos_token

    def render(self, messages: Messages, prompt: bool = False) -> str:
        """The conversation as text, one placeholder of the model's own an image.

        With ``prompt`` the text ends where the assistant's next answer begins.
        """
        parts = [{"role": m["role"], "content": self._parts(m)} for m in messages]
        return self.processor.apply_chat_template(parts, tokenize=False, add_generation_prompt=prompt)

    def answer_spans(self, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and the characters ``[start, end)`` of each answer, its end-of-turn token included.

        Raises
        ------
        UserError
            The chat template writes earlier turns differently once later ones follow.
        """
        text, spans = self.render(messages), []
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before, upto = self.render(messages[:i], prompt=True), self.render(messages[: i + 1])
                if not (upto.startswith(before) and text.startswith(upto.rstrip())):
                    raise UserError("the chat template changes earlier turns when later ones follow")
                spans.append((len(before), len(upto.rstrip())))
        return text, spans

    def _parts(self, message: dict[str, str]) -> list[dict[str, str]]:
        """Split the content at its placeholders. Templates put their own line breaks around images."""
        if message["role"] == "assistant":
            return [{"type": "text", "text": message["content"] + self.turn_end}]
        parts: list[dict[str, str]] = []
        for i, text in enumerate(message["content"].split(IMAGE_PLACEHOLDER)):
            parts += [{"type": "image"}] * (i > 0)
            parts += [{"type": "text", "text": text.strip("\n")}] * bool(text.strip())
        return parts
