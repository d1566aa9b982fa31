"""The command ``yopo-train convert``: one function for each layout; its arguments are the command's."""

from __future__ import annotations

from pathlib import Path

from .internvl2 import convert_internvl2
from .llava import convert_llava


def internvl2(src: Path, dst: Path) -> None:
    """Convert an InternVL-2.0 checkpoint (InternVLChatModel) to the layout of transformers, without its remote code.

    Args:
        src: folder of the original checkpoint
        dst: folder to write; new or empty
    """
    convert_internvl2(src, dst)
    print(dst)


def llava(src: Path, dst: Path, vision_tower: str | None = None, head_mask: Path | None = None) -> None:
    """Convert an original LLaVA-1.5 checkpoint (LlavaLlamaForCausalLM) to the layout of llava-hf.

    Args:
        src: folder of the original checkpoint
        dst: folder to write; new or empty
        vision_tower: folder or Hub id of the CLIP tower where the checkpoint lacks it; its mm_vision_tower unless given
        head_mask: head mask (.npy, .pt, .pth) of a pruned YOPO checkpoint; plan.safetensors is written, too
    """
    for note in convert_llava(src, dst, vision_tower, head_mask):
        print(f"- {note}")
    print(dst)


CONVERTERS = {"internvl2": internvl2, "llava": llava}
