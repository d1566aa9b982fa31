"""Small question sets on disk."""

import io
from pathlib import Path

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

KINDS = ("colour", "count", "digit")


def png(seed: int, size: tuple[int, int] = (96, 96)) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    PILImage.new("RGB", size, (seed * 37 % 256, seed * 91 % 256, seed * 53 % 256)).save(file, "PNG")
    return file.getvalue()


def make_row(index: int, images: int = 1, turns: int = 1, size: tuple[int, int] = (96, 96)) -> dict:
    """A dialogue; all images stand in its first message."""
    messages = []
    for turn in range(turns):
        marks = "<image>\n" * (images if turn == 0 else 0)
        messages.append({"role": "user", "content": f"{marks}Question {index} of turn {turn}?"})
        messages.append({"role": "assistant", "content": f"answer {index} {turn}"})
    pictures = [{"bytes": png(index * 10 + i, size), "path": None} for i in range(images)]
    return {"id": f"row-{index}", "images": pictures, "messages": messages, "kind": KINDS[index % len(KINDS)]}


def write_split(folder: Path, split: str, rows: list[dict]) -> Path:
    """`rows` as one parquet file with embedded images."""
    features = Features(
        {
            "id": Value("string"),
            "images": List(Image()),
            "messages": List({"role": Value("string"), "content": Value("string")}),
            "kind": Value("string"),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    if rows:
        features = Features({name: kind for name, kind in features.items() if name in rows[0]})
    columns = {name: [row[name] for row in rows] for name in features}
    table = Dataset.from_dict(columns, features=features)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder
