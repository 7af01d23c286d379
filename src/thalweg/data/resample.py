"""Pictures in other sizes, by Pillow's bilinear filter, which averages where it shrinks."""

import numpy as np
from jaxtyping import Float
from PIL import Image

#: How many pixels beyond a piece the filter may look, for each pixel that becomes one.
_REACH = 2


def resized(
    picture: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Float[np.ndarray, "h w c"]:
    """The picture (or its part from (left, upper) to (right, lower), in pixels and their parts) in a size (h, w)."""
    height, width = size
    if box is None and picture.shape[:2] == size:
        return picture.astype(np.float32)
    channels = np.moveaxis(np.asarray(picture, np.float32), -1, 0)
    found = [
        np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR, box))
        for channel in channels
    ]
    return np.stack(found, axis=-1)


def cut(
    picture: np.ndarray, place: Float[np.ndarray, "4"], size: tuple[int, int]
) -> Float[np.ndarray, "h w c"]:
    """The window of the picture at x, y, width, height, in a size (h, w); beyond a border lies what lies on it."""
    x, y, width, height = map(float, place)
    margin = _REACH * max(width / size[1], height / size[0], 1.0)
    left, upper = int(np.floor(x - margin)), int(np.floor(y - margin))
    columns = np.arange(left, int(np.ceil(x + width + margin)))
    rows = np.arange(upper, int(np.ceil(y + height + margin)))
    around = picture[rows.clip(0, picture.shape[0] - 1)][:, columns.clip(0, picture.shape[1] - 1)]
    return resized(around, size, (x - left, y - upper, x - left + width, y - upper + height))
