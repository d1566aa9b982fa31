"""The embedded tiny VLM, untrained: a genuine LLaVA small enough to train on a laptop and to ship in git.

    python -m yopo_train.models.tiny runs/tiny-init

writes a folder that `AutoProcessor.from_pretrained` and `LlavaForConditionalGeneration.from_pretrained` read like any
other. `configs/tiny_pretrain.yaml` trains it on pictures of `yopo_train.data.shapes`.

A 96 x 96 image is 12 x 12 patches of 8 pixels: 144 visual tokens in the language model.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from yopo_train.data.shapes.glyphs import DIGITS, LETTERS
from yopo_train.data.shapes.questions import PLACES, WORDS
from yopo_train.data.shapes.scene import COLOURS, IMAGE_SIZE
from yopo_train.errors import UserError
from yopo_train.run_folder import need_empty

PATCH_SIZE = 8
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<image>")  # ids 0 to 3
VOCABULARY_SIZE = 640

# LLaVA-1.5's prompt, and `</s>` after each answer so that a dialogue has ends to learn.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' if message['role'] == 'user' else 'ASSISTANT:' }}"
    "{% if message['content'] is string %}"
    "{{ message['content'] + ' ' if message['role'] == 'user' else ' ' + message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ part['text'] + ' ' if message['role'] == 'user' else ' ' + part['text'] }}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' }}"
    "{% endfor %}"
    "{{ 'ASSISTANT:' if add_generation_prompt }}"
)

_WORDS = (
    "USER ASSISTANT yes no left right above below or of the is are there shown objects object all List Count What",
    "Where Which Is How many colour colours places",
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be written, and each word of the question set is one token."""
    words = [*" ".join(_WORDS).split(), *COLOURS, *WORDS, *PLACES]
    corpus = [text for word in words for text in (f" {word}", word)]
    corpus += [f" {name}" for name in (*DIGITS, *LETTERS)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def tiny_processor() -> LlavaProcessor:
    """Images of any size to 96 x 96, and text with one `<image>` token a visual token."""
    image_processor = CLIPImageProcessorPil(  # needs no torchvision; is saved under the name of the plain class
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tiny_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_config(vocabulary: int = VOCABULARY_SIZE) -> LlavaConfig:
    """Four vision layers and eight language-model layers of width 128; eight heads of 16."""
    vision = CLIPVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=128,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        initializer_range=0.06,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=3,
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )


def build_tiny(out: str | Path, seed: int = 0) -> None:
    """Write the untrained model with its processor.

    Parameters
    ----------
    out : folder to write into. It must not exist yet, or be empty.
    seed : of the random weights.

    Raises
    ------
    UserError : `out` holds files already.
    """
    out = Path(out)
    need_empty(out)
    processor = tiny_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(tiny_config(len(processor.tokenizer)))
        # as strong as what a patch shows: with CLIP's own 0.02 it takes long until the model knows where things are
        positions = model.model.vision_tower.embeddings.position_embedding
        torch.nn.init.normal_(positions.weight, std=0.2)
    model.save_pretrained(out)
    processor.save_pretrained(out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m yopo_train.models.tiny", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        build_tiny(args.out, args.seed)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
