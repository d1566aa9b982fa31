"""A plain folder of images as a question set: enough to calibrate on, where nobody needs an answer."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, Features, List, Value
from PIL import Image

from .conversation import IMAGE_PLACEHOLDER

SPLIT = "calibration"
"""The one split that such a folder has."""
QUESTION = "Describe the image."
KIND = "description"


def image_files(folder: Path) -> list[str]:
    """Paths of the images below a folder, relative to it and sorted; none where it holds any other kind of file.

    Hidden files do not count.
    """
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    names = sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))
    known = Image.registered_extensions()
    return names if all(Path(name).suffix.lower() in known for name in names) else []


def as_questions(names: list[str]) -> Dataset:
    """A row for each image; its id is the image's path."""
    messages = [
        {"role": "user", "content": f"{IMAGE_PLACEHOLDER}\n{QUESTION}"},
        {"role": "assistant", "content": ""},
    ]
    columns = {
        "id": names,
        "images": [[name] for name in names],
        "messages": [messages] * len(names),
        "kind": [KIND] * len(names),
    }
    text = Value("string")
    features = Features(
        {"id": text, "images": List(text), "messages": List({"role": text, "content": text}), "kind": text}
    )
    return Dataset.from_dict(columns, features=features)
