"""SentencePiece models (``tokenizer.model``) of the kind that Llama and InternLM2 have, as fast tokenizers.

Needs protobuf, but not the library sentencepiece: the file lists pieces with scores, and byte-pair encoding that always
joins the pair with the best score is what the merges of ``tokenizers`` do when they are sorted by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..errors import UserError

SPACE = "▁"
BPE = 2
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
UNKNOWN = 2


def read_sentencepiece(path: Path, added: Mapping[int, AddedToken], legacy: bool) -> Tokenizer:
    """The tokenizer of a SentencePiece model, without a post-processor.

    Parameters
    ----------
    path : Path
        ``tokenizer.model``.
    added : mapping
        Tokens by id that the model's own tokenizer adds, or puts in the place of unused pieces.
    legacy : bool
        Llama's old behaviour: the space in front of the text stands behind each special token, too.

    Raises
    ------
    UserError
        Not a SentencePiece model, or one that normalises text or is no byte-pair encoding.
    """
    model = _parse(path)
    _check_kind(model, path)
    names = [added[i].content if i in added else piece.piece for i, piece in enumerate(model.pieces)]
    vocabulary = {name: i for i, name in enumerate(names)}
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == NORMAL}
    unknown = next((name for name, piece in zip(names, model.pieces, strict=True) if piece.type == UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges(vocabulary, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=model.trainer_spec.byte_fallback,
        )
    )
    prefix = model.normalizer_spec.add_dummy_prefix
    if prefix and not legacy:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    else:
        spaces = normalizers.Replace(" ", SPACE)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    strip = [decoders.Strip(content=" ", left=1)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    for i, piece in enumerate(model.pieces):
        if piece.type in (UNKNOWN, CONTROL, USER_DEFINED) and i not in added:
            tokenizer.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type != USER_DEFINED)])
    return tokenizer


def merges(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every pair that joins to a piece, the best piece first.

    Parameters
    ----------
    vocabulary : mapping
        Ids of the pieces.
    scores : mapping
        Of the pieces that text is made of.
    """
    pairs: list[tuple[str, str]] = []
    for piece in sorted(scores, key=lambda name: (-scores[name], vocabulary.get(name, 0))):
        if piece in vocabulary:
            halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
            known = [(left, right) for left, right in halves if left in scores and right in scores]
            pairs += sorted(known, key=lambda pair: (vocabulary.get(pair[0], 0), vocabulary.get(pair[1], 0)))
    return [(left, right) for left, right in pairs if left in vocabulary and right in vocabulary]


def _parse(path: Path) -> Any:
    try:
        from transformers.convert_slow_tokenizer import import_protobuf

        model = import_protobuf().ModelProto()
    except ImportError:
        raise UserError(
            f"{path}: reading a SentencePiece model needs the package protobuf (pip install protobuf)"
        ) from None
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError is another class in each of its implementations
        raise UserError(f"{path}: not a readable SentencePiece model: {error}") from None
    if not model.pieces:
        raise UserError(f"{path}: not a SentencePiece model: it has no pieces")
    return model


def _check_kind(model: Any, path: Path) -> None:
    if model.trainer_spec.model_type != BPE:
        raise UserError(f"{path}: the SentencePiece model is not a byte-pair encoding, expected one as Llama's")
    spec = model.normalizer_spec
    if spec.precompiled_charsmap or spec.remove_extra_whitespaces:
        raise UserError(f"{path}: the SentencePiece model normalises text ({spec.name}), expected none as in Llama's")
