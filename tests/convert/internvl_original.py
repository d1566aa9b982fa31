"""Tiny InternVL-2.0 checkpoints as their authors write them: any of the language models, either InternViT."""

import json

from convert.folders import added_token, random_tensors, sentencepiece_model, write_json, write_shards

VOCABULARY = 352
HIDDEN, WIDTH, LAYERS, HEADS, KV_HEADS = 48, 40, 3, 6, 2
HEAD_DIM = HIDDEN // HEADS
GROUP = HEADS // KV_HEADS
VIT, VIT_HEADS, VIT_WIDTH, VIT_LAYERS, IMAGE, PATCH = 24, 3, 20, 2, 28, 7
IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
TEMPLATES = {"internlm2": "internlm2-chat", "phi3": "phi3-chat", "qwen2": "Hermes-2", "llama": "Hermes-2"}
JUNK = {"_name_or_path": "x", "return_dict": True, "top_k": 50, "torchscript": False, "num_beams": 1, "use_cache": True}


def rope_factors():
    short = [1.0 + 0.1 * i for i in range(HEAD_DIM // 2)]
    return {"type": "su", "short_factor": short, "long_factor": [2.0 * factor for factor in short]}


def llm_config(kind):
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        **JUNK,
    }
    own = {
        "internlm2": {
            "architectures": ["InternLM2ForCausalLM"],
            "model_type": "internlm2",
            "bias": False,
            "rope_theta": 1000000,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "max_position_embeddings": 24,
            "attn_implementation": "eager",
        },
        "phi3": {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "original_max_position_embeddings": 24,
            "rope_scaling": rope_factors(),
            "sliding_window": 2048,
            "resid_pdrop": 0.0,
        },
        "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False},
        "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_scaling": None},
    }
    return {**common, **own[kind]}


def vision_config(vit):
    big = vit == "6b"
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": VIT,
        "num_hidden_layers": VIT_LAYERS,
        "num_attention_heads": VIT_HEADS,
        "intermediate_size": VIT_WIDTH,
        "image_size": IMAGE,
        "patch_size": PATCH,
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "norm_type": "rms_norm" if big else "layer_norm",
        "qk_normalization": big,
        "qkv_bias": not big,
        "drop_path_rate": 0.1,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "initializer_factor": 0.1,
        **JUNK,
    }


def config(kind, vit="300m", **changes):
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "model_type": "internvl_chat",
        "llm_config": llm_config(kind),
        "vision_config": vision_config(vit),
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": IMAGE,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 4,
        "ps_version": "v2",
        "select_layer": -1,
        "template": TEMPLATES[kind],
        "torch_dtype": "float32",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        **changes,
    }


def vision_shapes(vit):
    patches, big = (IMAGE // PATCH) ** 2, vit == "6b"
    shapes = {
        "embeddings.class_embedding": (1, 1, VIT),
        "embeddings.position_embedding": (1, patches + 1, VIT),
        "embeddings.patch_embedding.weight": (VIT, 3, PATCH, PATCH),
        "embeddings.patch_embedding.bias": (VIT,),
    }
    for layer in range(VIT_LAYERS):
        start = f"encoder.layers.{layer}."
        shapes |= {
            f"{start}attn.qkv.weight": (3 * VIT, VIT),
            f"{start}attn.proj.weight": (VIT, VIT),
            f"{start}attn.proj.bias": (VIT,),
            f"{start}mlp.fc1.weight": (VIT_WIDTH, VIT),
            f"{start}mlp.fc1.bias": (VIT_WIDTH,),
            f"{start}mlp.fc2.weight": (VIT, VIT_WIDTH),
            f"{start}mlp.fc2.bias": (VIT,),
            f"{start}norm1.weight": (VIT,),
            f"{start}norm2.weight": (VIT,),
            f"{start}ls1": (VIT,),
            f"{start}ls2": (VIT,),
        }
        small = {f"{start}attn.qkv.bias": (3 * VIT,), f"{start}norm1.bias": (VIT,), f"{start}norm2.bias": (VIT,)}
        shapes |= {f"{start}attn.{name}_norm.weight": (VIT,) for name in "qk"} if big else small
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def projector_shapes():
    return {
        "mlp1.0.weight": (4 * VIT,),
        "mlp1.0.bias": (4 * VIT,),
        "mlp1.1.weight": (HIDDEN, 4 * VIT),
        "mlp1.1.bias": (HIDDEN,),
        "mlp1.3.weight": (HIDDEN, HIDDEN),
        "mlp1.3.bias": (HIDDEN,),
    }


def llm_shapes(kind):
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    projections = {"q": queries, "k": keys, "v": keys}
    norms = ("attention_norm", "ffn_norm") if kind == "internlm2" else ("input_layernorm", "post_attention_layernorm")
    layer = dict.fromkeys((f"{name}.weight" for name in norms), (HIDDEN,))
    if kind == "internlm2":
        layer |= {
            "attention.wqkv.weight": (queries + 2 * keys, HIDDEN),
            "attention.wo.weight": (HIDDEN, queries),
            "feed_forward.w1.weight": (WIDTH, HIDDEN),
            "feed_forward.w3.weight": (WIDTH, HIDDEN),
            "feed_forward.w2.weight": (HIDDEN, WIDTH),
        }
    else:
        layer |= {"self_attn.o_proj.weight": (HIDDEN, queries), "mlp.down_proj.weight": (HIDDEN, WIDTH)}
    if kind == "phi3":
        layer |= {
            "self_attn.qkv_proj.weight": (queries + 2 * keys, HIDDEN),
            "mlp.gate_up_proj.weight": (2 * WIDTH, HIDDEN),
        }
    if kind in ("qwen2", "llama"):
        layer |= {f"self_attn.{name}_proj.weight": (size, HIDDEN) for name, size in projections.items()}
        layer |= {f"mlp.{name}_proj.weight": (WIDTH, HIDDEN) for name in ("gate", "up")}
    if kind == "qwen2":
        layer |= {f"self_attn.{name}_proj.bias": (size,) for name, size in projections.items()}
    embedding, head = ("model.tok_embeddings", "output") if kind == "internlm2" else ("model.embed_tokens", "lm_head")
    shapes = {f"{embedding}.weight": (VOCABULARY, HIDDEN)}
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}
    shapes |= {"model.norm.weight": (HIDDEN,), f"{head}.weight": (VOCABULARY, HIDDEN)}
    return {f"language_model.{name}": shape for name, shape in shapes.items()}


def all_shapes(kind, vit):
    return {**vision_shapes(vit), **projector_shapes(), **llm_shapes(kind)}


def write_tokenizer(folder, kind):
    """InternLM2's puts its chat tokens in the place of unused pieces; Phi-3's are behind all pieces, as Llama's."""
    own = kind == "internlm2"
    chat = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"] if kind == "phi3" else []
    chat = chat or ["<|im_end|>", "<|im_start|>"]
    model = sentencepiece_model(prefix=not own, unused=[f"[UNUSED_{i}]" for i in range(2)] if own else [])
    first = len(model.pieces) - (2 if own else 0)
    texts = [*chat, *IMAGE_TOKENS]
    decoder = {0: "<unk>", 1: "<s>", 2: "</s>", **{first + i: text for i, text in enumerate(texts)}}
    strips = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")  # Phi-3's swallow the line break behind them
    entries = {str(i): added_token(text, special=True, rstrip=text in strips) for i, text in decoder.items()}
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    settings = {
        "added_tokens_decoder": entries,
        "additional_special_tokens": texts,
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 8192,
        "tokenizer_class": "InternLM2Tokenizer" if own else "LlamaTokenizer",
        **({} if own else {"legacy": False, "add_bos_token": True}),
    }
    write_json(folder / "tokenizer_config.json", settings)
    return model


def write_original(folder, kind, vit="300m", shards=4, seed=0, **changes):
    """Write a checkpoint; returns its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(all_shapes(kind, vit), seed)
    write_shards(folder, tensors, shards)
    write_json(folder / "config.json", config(kind, vit, **changes))
    write_tokenizer(folder, kind)
    return tensors


def edit_config(folder, change):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)
