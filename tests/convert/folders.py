"""Checkpoint folders in their original layouts, written from the description of each: shards, index, tokenizer."""

import itertools
import json
import string

import torch
from safetensors.torch import save_file
from transformers.convert_slow_tokenizer import import_protobuf

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
PIECES = ["▁a", "▁b", "ab", "▁ab", "re", "▁re", "red", "▁red", "in", "▁in", "is", "▁is", "▁th", "▁the", "er", "▁th e"]
"""Joined pieces, the best first; "▁th e" cannot be reached."""


def write_json(path, content):
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_shards(folder, tensors, count):
    """The tensors in ``count`` shards of about as many tensors each, and their index."""
    names = list(tensors)
    size, weight_map = -(-len(names) // count), {}
    for number in range(count):
        part = names[number * size : (number + 1) * size]
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def random_tensors(shapes, seed=0, scale=0.3):
    """Random weights; norms are near one, as trained ones are."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator) * scale
        is_norm = "norm" in name and name.endswith("weight")
        tensors[name] = 1 + noise if is_norm or name.endswith((".ls1", ".ls2")) else noise
    return tensors


def sentencepiece_model(prefix, unused=()):
    """A SentencePiece model as Llama's: bytes, characters and joined pieces.

    Parameters
    ----------
    prefix
        Whether it puts a space in front of the text (Llama), or not (InternLM2).
    unused
        Pieces at the end that no text is made of.
    """
    model = import_protobuf().ModelProto()
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    characters = ["▁", *string.ascii_letters, *",.:?!"]
    rows = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    rows += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    halves = [*PIECES, "▁t", "th", "he"]
    rows += [(piece, -float(rank), NORMAL) for rank, piece in enumerate([*halves, *characters], start=1)]
    rows += [(piece, -1000.0, NORMAL) for piece in unused]
    for piece, score, kind in rows:
        model.pieces.add(piece=piece, score=score, type=kind)
    return model


def spm_encode(model, text):
    """What SentencePiece makes of a text: always joins the neighbors whose piece has the best score, leftmost first."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == NORMAL}
    ids = {piece.piece: number for number, piece in enumerate(model.pieces)}
    symbols = list(text.replace(" ", "▁"))
    if model.normalizer_spec.add_dummy_prefix:
        symbols = ["▁", *symbols]
    while True:
        pairs = [(scores[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in scores]
        if not pairs:
            break
        i = -max(pairs)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    found = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


def added_token(text, **flags):
    return {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, **flags}
