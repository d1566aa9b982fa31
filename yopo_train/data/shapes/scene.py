"""What is in a picture, and how it is drawn.

A scene is a 3 x 3 grid of cells with three to six things in it: shapes of different forms, of few colours, and
mostly a digit or a letter or both among them. One word ("the circle", "the digit") therefore always means one thing.
Things are moved by a pixel and differ a little in size.
"""

import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from yopo_train.data.shapes.glyphs import COLUMNS, DIGITS, GLYPHS, LETTERS, ROWS

COLOURS = {
    "red": (214, 40, 40),
    "green": (36, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 205, 30),
    "purple": (140, 50, 170),
    "orange": (245, 130, 20),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
IMAGE_SIZE = 96
GRID = 3
CELL = IMAGE_SIZE // GRID
MIDDLE = 12  # of a thing in its cell: it fills three by three patches of 8 pixels, not parts of four by four
DIGIT_SHARE, LETTER_SHARE = 0.7, 0.5  # of the scenes
GLYPH_DOT = 3  # pixels a bitmap dot
_BACKGROUNDS = ((255, 255, 255), (246, 246, 246), (236, 236, 236))


@dataclass(frozen=True)
class Thing:
    """One drawn object: `row` and `column` name its cell, `x` and `y` its centre and `size` its extent in pixels."""

    colour: str
    form: str
    row: int
    column: int
    x: int
    y: int
    size: int

    @property
    def name(self) -> str:
        """As a list names it: "red circle", "blue 7"."""
        return f"{self.colour} {self.form}"

    @property
    def word(self) -> str:
        """The word that a question means it by: its shape, "digit" or "letter"."""
        return "digit" if self.form in DIGITS else "letter" if self.form in LETTERS else self.form


@dataclass(frozen=True)
class Scene:
    """Things in raster order (row by row, left to right) on a plain background."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int]


def sample_scene(rng: random.Random) -> Scene:
    """A random scene. Few colours are used at once, so that the same one is met up to several times."""
    colours = rng.sample(list(COLOURS), rng.randint(2, 3))
    forms: list[str] = rng.sample(SHAPES, rng.randint(3, 4))
    forms += [rng.choice(DIGITS)] * (rng.random() < DIGIT_SHARE)
    forms += [rng.choice(LETTERS)] * (rng.random() < LETTER_SHARE)
    cells = rng.sample(range(GRID * GRID), len(forms))
    things = []
    for cell, form in sorted(zip(cells, forms, strict=True)):
        row, column = divmod(cell, GRID)
        things.append(
            Thing(
                colour=rng.choice(colours),
                form=form,
                row=row,
                column=column,
                x=column * CELL + MIDDLE + rng.randint(-1, 1),
                y=row * CELL + MIDDLE + rng.randint(-1, 1),
                size=rng.choice((22, 24, 26)),
            )
        )
    return Scene(tuple(things), rng.choice(_BACKGROUNDS))


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, `IMAGE_SIZE` x `IMAGE_SIZE`, without smoothing (so that PNG stays small)."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), scene.background)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        if thing.form in GLYPHS:
            _draw_glyph(pen, thing)
        else:
            _draw_shape(pen, thing)
    return image


def png_bytes(image: Image.Image) -> bytes:
    """`image` as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _draw_shape(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    colour, half, x, y = COLOURS[thing.colour], thing.size // 2, thing.x, thing.y
    box = (x - half, y - half, x + half, y + half)
    if thing.form == "circle":
        pen.ellipse(box, fill=colour)
    elif thing.form == "square":
        pen.rectangle(box, fill=colour)
    elif thing.form == "ring":
        pen.ellipse(box, outline=colour, width=4)
    elif thing.form == "diamond":
        pen.polygon([(x, y - half), (x + half, y), (x, y + half), (x - half, y)], fill=colour)
    elif thing.form == "triangle":
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=colour)
    else:
        arm = half // 3
        pen.rectangle((x - half, y - arm, x + half, y + arm), fill=colour)
        pen.rectangle((x - arm, y - half, x + arm, y + half), fill=colour)


def _draw_glyph(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    dot = GLYPH_DOT
    left, top = thing.x - COLUMNS * dot // 2, thing.y - ROWS * dot // 2
    for i, bits in enumerate(GLYPHS[thing.form]):
        for j, bit in enumerate(bits):
            if bit == "1":
                x, y = left + j * dot, top + i * dot
                pen.rectangle((x, y, x + dot - 1, y + dot - 1), fill=COLOURS[thing.colour])
