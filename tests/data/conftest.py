"""Processors of several families, around the tokenizer of the embedded model."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import InternVLProcessor, LlavaProcessor, PreTrainedTokenizerFast, Qwen2VLProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from yopo_train.models.tiny import tiny_processor, tiny_tokenizer

LLAVA15_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}IMAGE{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]


class QwenWithoutVideo(Qwen2VLProcessor):
    """Video processors need torchvision."""

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]


class InternWithoutVideo(InternVLProcessor):
    """Video processors need torchvision."""

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]


def llava15():
    """Llama's kind of tokenizer (spaces become part of words) and LLaVA-1.5's template, which ends no turn."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["USER: ASSISTANT: Question answer of turn 0 1 2 3 4 5 6 7 8 9 ? \n"] * 9, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    tiny = tiny_processor()
    return LlavaProcessor(
        tiny.image_processor, fast, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA15_TEMPLATE,
    )  # fmt: skip


def qwen2vl():
    tokenizer = tiny_tokenizer()
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_tokens(CHATML_TOKENS + marks, special_tokens=True)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.image_token, tokenizer.image_token_id = marks[2], tokenizer.convert_tokens_to_ids(marks[2])
    template = CHATML_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 64)
    return QwenWithoutVideo(images, tokenizer, chat_template=template)


def internvl():
    tokenizer = tiny_tokenizer()
    names = {
        "start_image_token": "<img>", "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
    }  # fmt: skip
    tokenizer.add_tokens([*CHATML_TOKENS, *names.values()], special_tokens=True)
    tokenizer.eos_token = "<|im_end|>"
    for name, token in names.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    template = CHATML_TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\n")
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    return InternWithoutVideo(images, tokenizer, image_seq_length=4, chat_template=template)


PROCESSORS = {"tiny": tiny_processor, "llava-1.5": llava15, "qwen2-vl": qwen2vl, "internvl": internvl}


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


@pytest.fixture(scope="session", params=PROCESSORS)
def any_processor(request):
    return PROCESSORS[request.param]()
