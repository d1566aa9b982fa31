"""What is in a picture, and how it is drawn.

A scene is a 3 x 3 grid of cells with three to six things in it. A thing has a colour and a form: one of four
shapes, a digit or a letter. Things sit a few pixels off the middle of their cell and differ in size, so their
outlines do not line up with the patches of a vision tower.
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
SHAPES = ("circle", "square", "triangle", "cross")
FORMS = (*SHAPES, *DIGITS, *LETTERS)
IMAGE_SIZE = 96
GRID = 3
CELL = IMAGE_SIZE // GRID
_BACKGROUNDS = ((255, 255, 255), (232, 232, 232), (30, 30, 30), (0, 0, 0))


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
        return f"{self.colour} {self.form}"


@dataclass(frozen=True)
class Scene:
    """Things in raster order (row by row, left to right) on a plain background."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int]


def sample_scene(rng: random.Random) -> Scene:
    """A random scene. Few colours and few shapes are used at once, so that the same one is met up to several times."""
    colours = rng.sample(list(COLOURS), rng.randint(2, 4))
    shapes = rng.sample(SHAPES, rng.randint(1, 3))
    cells = sorted(rng.sample(range(GRID * GRID), rng.randint(3, 6)))
    things = []
    for cell in cells:
        row, column = divmod(cell, GRID)
        pool = rng.choices((shapes, DIGITS, LETTERS), weights=(64, 18, 18))[0]
        things.append(
            Thing(
                colour=rng.choice(colours),
                form=rng.choice(pool),
                row=row,
                column=column,
                x=column * CELL + CELL // 2 + rng.randint(-3, 3),
                y=row * CELL + CELL // 2 + rng.randint(-3, 3),
                size=rng.randint(18, 24),
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
    elif thing.form == "triangle":
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=colour)
    else:
        arm = half // 3
        pen.rectangle((x - half, y - arm, x + half, y + arm), fill=colour)
        pen.rectangle((x - arm, y - half, x + arm, y + half), fill=colour)


def _draw_glyph(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    dot = thing.size // ROWS  # pixels a bitmap dot: 2 or 3
    left, top = thing.x - COLUMNS * dot // 2, thing.y - ROWS * dot // 2
    for i, bits in enumerate(GLYPHS[thing.form]):
        for j, bit in enumerate(bits):
            if bit == "1":
                x, y = left + j * dot, top + i * dot
                pen.rectangle((x, y, x + dot - 1, y + dot - 1), fill=COLOURS[thing.colour])
