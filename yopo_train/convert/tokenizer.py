"""The tokenizer of an original checkpoint folder, without its remote code."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from ..errors import UserError
from .files import read_json
from .sentencepiece import read_sentencepiece

QWEN2_FILES = ("vocab.json", "merges.txt")
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def load_tokenizer(
    folder: Path, named: Mapping[str, str] | None = None, new: Mapping[str, str] | None = None
) -> PreTrainedTokenizerBase:
    """A tokenizer that reads and writes what the checkpoint's own does.

    It is made of ``tokenizer.json``, or else of the SentencePiece model ``tokenizer.model``, or else of Qwen2's
    ``vocab.json`` and ``merges.txt``; ids of added tokens are kept.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    named, new : mapping, optional
        By the attribute of the tokenizer under which a processor asks for them, tokens that the vocabulary has, and
        tokens to add.

    Raises
    ------
    UserError
        None of the files is there, one is damaged, a named token is missing, or an added one cannot have its id.
    """
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    added, named = _added_tokens(folder, config), dict(named or {})
    arguments = {"extra_special_tokens": {**named, **(new or {})}, "clean_up_tokenization_spaces": False}
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        if not all((folder / name).is_file() for name in QWEN2_FILES):
            raise UserError(
                f"{folder}: no tokenizer, expected tokenizer.json, tokenizer.model, or {' and '.join(QWEN2_FILES)}"
            )
        _check_named(named, {*read_json(folder / QWEN2_FILES[0]), *(token.content for token in added.values())}, folder)
        try:
            return Qwen2Tokenizer.from_pretrained(str(folder), **arguments)
        except Exception as error:  # of the library tokenizers, which raises nothing more special
            raise UserError(f"{folder}: {' and '.join(QWEN2_FILES)} make no tokenizer: {error}") from None
    backend = _backend(folder, config, added)
    _check_named(named, backend.get_vocab(), folder)
    tokens = _special_tokens(folder, config)
    if missing := [token for token in tokens.values() if token not in backend.get_vocab()]:
        raise UserError(f"{folder}: the tokenizer has no token {missing[0]!r}, which its configuration names")
    tokens.setdefault("pad_token", tokens.get("eos_token"))
    if type(length := config.get("model_max_length")) in (int, float):
        arguments["model_max_length"] = length
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens, **arguments)


def _check_named(named: Mapping[str, str], vocabulary: Container[str], folder: Path) -> None:
    for token in named.values():
        if token not in vocabulary:
            raise UserError(f"{folder}: the tokenizer has no token {token}")


def _backend(folder: Path, config: dict[str, Any], added: Mapping[int, AddedToken]) -> Tokenizer:
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # likewise
            raise UserError(f"{path}: not readable as a tokenizer: {error}") from None
    legacy = config.get("legacy")
    tokenizer = read_sentencepiece(folder / "tokenizer.model", added, legacy=legacy is None or bool(legacy))
    for number, token in sorted(added.items()):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != number:
            found = tokenizer.token_to_id(token.content)
            raise UserError(f"{folder}: the added token {token.content!r} has the id {number}, but {found} is its turn")
    _add_ends(tokenizer, config, folder)
    return tokenizer


def _add_ends(tokenizer: Tokenizer, config: dict[str, Any], folder: Path) -> None:
    """The tokens in front of and behind every text; Llama's and InternLM2's own tokenizers add ``<s>`` by default."""
    tokens = _special_tokens(folder, config)
    start = [tokens.get("bos_token", "<s>")] if config.get("add_bos_token", True) else []
    end = [tokens.get("eos_token", "</s>")] if config.get("add_eos_token", False) else []
    if start or end:
        ids = [(token, tokenizer.token_to_id(token)) for token in start + end]
        if missing := [token for token, number in ids if number is None]:
            raise UserError(f"{folder}: the tokenizer has no token {missing[0]!r}, which its configuration names")
        tokenizer.post_processor = TemplateProcessing(single=[*start, "$A", *end], special_tokens=ids)


def _special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """The special tokens, by name; in ``tokenizer_config.json`` or beside it they are strings or objects."""
    path = folder / "special_tokens_map.json"
    values = {
        **(read_json(path) if path.is_file() else {}),
        **{name: config[name] for name in SPECIAL if config.get(name)},
    }
    found = {name: values[name] for name in SPECIAL if values.get(name)}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f"{folder}: the tokenizer's {name} is {found[name]!r}, expected a token's text")
    return texts


def _added_tokens(folder: Path, config: dict[str, Any]) -> dict[int, AddedToken]:
    """By id: ``added_tokens_decoder`` of newer folders, or ``added_tokens.json`` of older ones (all special)."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    try:
        if decoder := config.get("added_tokens_decoder"):
            return {
                int(number): AddedToken(token["content"], **{name: token[name] for name in flags if name in token})
                for number, token in decoder.items()
            }
        path = folder / "added_tokens.json"
        listed = read_json(path) if path.is_file() else {}
        return {int(number): AddedToken(text, normalized=False, special=True) for text, number in listed.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: the added tokens of the tokenizer are damaged: {error}") from None
