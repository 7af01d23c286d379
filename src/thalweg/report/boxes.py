"""Pictures with the boxes in them drawn, as PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from thalweg.data.boxes import Boxes
from thalweg.data.pictures import Pictures
from thalweg.files import atomic_directory

#: The colours of labels, in turn: Okabe and Ito's, which most eyes tell apart.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
#: Pictures narrower than this are shown larger, so that labels can be read.
READABLE = 480


def draw(picture: np.ndarray, boxes: Boxes, labels: tuple[str, ...] = ()) -> Image.Image:
    """A picture (h, w, c) with its boxes, each with its label and its probability where it has them; `labels` are all
    that there are, so that each keeps its colour from picture to picture."""
    factor = max(1, -(-READABLE // max(picture.shape[:2])))
    image = _image(picture)
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    for i, place in enumerate(boxes.place * factor):
        label = "" if boxes.label is None else str(boxes.label[i])
        colour = COLOURS[(labels.index(label) if label in labels else 0) % len(COLOURS)]
        x, y, width, height = place
        pen.rectangle((x, y, x + width, y + height), outline=colour, width=max(2, factor // 2))
        share = "" if boxes.probability is None else f" {boxes.probability[i]:.2f}"
        pen.text((x + 4, y + 2), label + share, fill=colour, font_size=14)
    return image


def draw_all(directory: Path | str, pictures: Pictures, boxes: Boxes, *, force: bool = False) -> Path:
    """Write a folder with every picture and its boxes, under its own name or its number.

    Raises `OutputError` where the folder exists and `force` is not set.
    """
    directory = Path(directory)
    labels = () if boxes.label is None else tuple(sorted(set(boxes.label)))
    names = pictures.names or tuple(f"{i:0{len(str(len(pictures)))}d}.png" for i in range(len(pictures)))
    stems = [Path(name).stem for name in names]
    if len(set(stems)) < len(stems):
        stems = list(names)
    with atomic_directory(directory, force=force) as temporary:
        for i, picture in enumerate(pictures):
            draw(picture, boxes.of(i), labels).save(temporary / f"{stems[i]}.png")
    return directory


def _image(picture: np.ndarray) -> Image.Image:
    """The picture in colours; pixels that are not bytes from black to white over their own range."""
    shades = picture if picture.shape[2] == 3 else picture[..., :1].repeat(3, axis=2)
    if shades.dtype != np.uint8:
        values = shades.astype(np.float64)
        low, high = values.min(), values.max()
        shades = (255 * (values - low) / (high - low or 1.0)).astype(np.uint8)
    return Image.fromarray(shades)
