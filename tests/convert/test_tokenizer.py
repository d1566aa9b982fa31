"""Tokenizers of original folders that are no SentencePiece model: Qwen2's vocabulary and merges, and tokenizer.json."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from convert.folders import added_token, write_json
from convert.internvl_original import IMAGE_TOKENS
from yopo_train.convert.tokenizer import load_tokenizer
from yopo_train.errors import UserError

CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *IMAGE_TOKENS)
MERGES = ("t h", "th e", "Ġ the", "r e", "re d")
TEXT = "<|im_start|>user\n<img>the the re\u4f60<|im_end|>"


@pytest.fixture
def qwen2(tmp_path):
    """Qwen2's files as InternVL2-1B has them, tiny; every byte is a token."""
    vocabulary = {name: i for i, name in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {merge.replace(" ", ""): len(vocabulary) + i for i, merge in enumerate(MERGES)}
    write_json(tmp_path / "vocab.json", vocabulary)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    added = {len(vocabulary) + i: added_token(text, special=True) for i, text in enumerate(CHAT_TOKENS)}
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None}
    write_json(tmp_path / "tokenizer_config.json", {**settings, "added_tokens_decoder": added})
    return tmp_path, {**vocabulary, **{token["content"]: number for number, token in added.items()}}


@pytest.mark.parametrize("kind", ["vocab.json", "tokenizer.json"])
def test_byte_level_tokenizers(kind, qwen2):
    folder, ids = qwen2
    if kind == "tokenizer.json":
        vocabulary = {name: i for name, i in ids.items() if name not in CHAT_TOKENS}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split()) for merge in MERGES]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(list(CHAT_TOKENS))
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "vocab.json").unlink()
    tokenizer = load_tokenizer(folder, {"start_image_token": "<img>"}, {"video_token": "<video>"})
    expected = ["<|im_start|>", *"user", "Ċ", "<img>", "the", "Ġthe", "Ġ", "re", "ä", "½", "ł", "<|im_end|>"]
    found = tokenizer(TEXT)["input_ids"]
    assert found == [ids[name] for name in expected] and tokenizer.decode(found) == TEXT
    assert (tokenizer.start_image_token_id, tokenizer.video_token_id) == (ids["<img>"], len(ids))
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (ids["<|im_end|>"], ids["<|endoftext|>"])


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("merges.txt", "nonsense", "vocab.json and merges.txt make no tokenizer"),
        ("vocab.json", "{", "vocab.json: not readable as JSON"),
        ("tokenizer.json", "{}", "tokenizer.json: not readable as a tokenizer"),
    ],
)
def test_damaged_files_are_one_error(file, content, words, qwen2):
    (qwen2[0] / file).write_text(content)
    with pytest.raises(UserError, match=words):
        load_tokenizer(qwen2[0])
