"""Tiny LLaVA-1.5 checkpoints as their authors write them (``LlavaLlamaForCausalLM``), and a CLIP of its own."""

import torch
from safetensors.torch import save_file

from convert.folders import random_tensors, sentencepiece_model, write_json, write_shards

VOCABULARY, HIDDEN, WIDTH, LAYERS, HEADS = 340, 32, 40, 3, 4
CLIP, CLIP_WIDTH, CLIP_LAYERS, CLIP_HEADS, IMAGE, PATCH = 16, 24, 3, 2, 24, 6
PRUNED = {"attncut_w": 5, "layercut_num": 2, "headcut_num": 2, "mlpcut_ratio": 4, "sprompt_len": 35}


def config(tower, **changes):
    return {
        "_name_or_path": "llava-v1.5-tiny",
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "max_length": 4096,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "pretraining_tp": 1,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float32",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": CLIP,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(tower),
        "use_mm_proj": True,
        **changes,
    }


def clip_config():
    return {
        "model_type": "clip_vision_model",
        "hidden_size": CLIP,
        "intermediate_size": CLIP_WIDTH,
        "num_hidden_layers": CLIP_LAYERS,
        "num_attention_heads": CLIP_HEADS,
        "image_size": IMAGE,
        "patch_size": PATCH,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


def clip_shapes():
    shapes = {
        "embeddings.class_embedding": (CLIP,),
        "embeddings.patch_embedding.weight": (CLIP, 3, PATCH, PATCH),
        "embeddings.position_embedding.weight": ((IMAGE // PATCH) ** 2 + 1, CLIP),
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    for layer in range(CLIP_LAYERS):
        start = f"encoder.layers.{layer}."
        norms += [f"{start}layer_norm1", f"{start}layer_norm2"]
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{start}self_attn.{name}.weight": (CLIP, CLIP), f"{start}self_attn.{name}.bias": (CLIP,)}
        shapes |= {f"{start}mlp.fc1.weight": (CLIP_WIDTH, CLIP), f"{start}mlp.fc1.bias": (CLIP_WIDTH,)}
        shapes |= {f"{start}mlp.fc2.weight": (CLIP, CLIP_WIDTH), f"{start}mlp.fc2.bias": (CLIP,)}
    shapes |= {f"{norm}.{kind}": (CLIP,) for norm in norms for kind in ("weight", "bias")}
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def llama_shapes():
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        shapes |= {f"{start}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{start}mlp.{name}_proj.weight": (WIDTH, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{start}mlp.down_proj.weight": (HIDDEN, WIDTH)}
        shapes |= {f"{start}{name}.weight": (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
    shapes |= {"model.mm_projector.0.weight": (HIDDEN, CLIP), "model.mm_projector.0.bias": (HIDDEN,)}
    shapes |= {"model.mm_projector.2.weight": (HIDDEN, HIDDEN), "model.mm_projector.2.bias": (HIDDEN,)}
    return {**shapes, "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_tower(folder):
    """A CLIP checkpoint of text and vision model, as on the Hub; returns the vision model's tensors."""
    folder.mkdir(parents=True)
    tensors = random_tensors(clip_shapes(), seed=1)
    others = {"logit_scale": torch.ones(()), "text_model.embeddings.position_embedding.weight": torch.ones(2, 2)}
    ids = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file({**tensors, **others, **ids}, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", {"model_type": "clip", "vision_config": clip_config(), "text_config": {}})
    write_json(folder / "preprocessor_config.json", {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]})
    return tensors


def write_original(folder, tower, inside=False, pickled=False, shards=3, legacy=None, **changes):
    """Write a checkpoint and its tower; returns the tensors of both.

    Parameters
    ----------
    inside
        The tower's weights stand in the checkpoint's shards, too.
    pickled
        The shards are ``pytorch_model*.bin``.
    legacy
        The tokenizer's flag; None leaves it out, as the first Vicuna did.
    """
    folder.mkdir(parents=True)
    clip = write_tower(tower)
    tensors = random_tensors(llama_shapes(), seed=2)
    if inside:
        tensors |= {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in clip.items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    if pickled:
        write_pickles(folder, tensors)
    else:
        write_shards(folder, tensors, shards)
    write_json(folder / "config.json", config(tower, **changes))
    write_tokenizer(folder, legacy)
    return {**tensors, **clip}


def write_pickles(folder, tensors):
    names, weight_map = list(tensors), {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})


def write_tokenizer(folder, legacy):
    """Vicuna's: no added tokens; version 1.5 is not "legacy"."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(prefix=True).SerializeToString())
    objects = {name: {"content": text} for name, text in (("bos_token", "<s>"), ("eos_token", "</s>"))}
    write_json(folder / "special_tokens_map.json", {**objects, "unk_token": {"content": "<unk>"}})
    settings = {"tokenizer_class": "LlamaTokenizer", "model_max_length": 2048}
    write_json(folder / "tokenizer_config.json", settings if legacy is None else {**settings, "legacy": legacy})
