"""Rows that are images: pixels to PNG tiles inside the page."""

import base64
import io
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.image import imsave

from thalweg.report.html import escape


def pixel_columns(schema: Any) -> list[Any]:
    """The schema's columns that are pixels, in C order; none for a table."""
    return list(schema.columns[: int(np.prod(schema.grid))]) if schema.grid else []


def intensities(table: pa.Table, schema: Any) -> Float[np.ndarray, "n h w c"]:
    """The pixels of each row between 0 and 1, with one channel or three; nan where missing."""
    columns = pixel_columns(schema)
    cells = [table.column(c.name).to_numpy(zero_copy_only=False).astype(float) for c in columns]
    low = min((c.minimum for c in columns if c.minimum is not None), default=0.0)
    high = max((c.maximum for c in columns if c.maximum is not None), default=1.0)
    values = (np.stack(cells, axis=1) - low) / ((high - low) or 1.0)
    return np.clip(shaped(values, schema.grid), 0, 1)


def shaped(values: Float[np.ndarray, "n d"], grid: tuple[int, ...]) -> Float[np.ndarray, "n h w c"]:
    """One value a pixel as images with a last axis of channels."""
    images = values.reshape(len(values), *grid)
    if images.ndim == 3:
        return images[..., None]
    return images if images.shape[-1] in (1, 3) else np.moveaxis(images, 1, -1)


def tile(image: Float[np.ndarray, "h w c"], caption: str = "", alt: str = "a row as an image") -> str:
    """One image as HTML; missing pixels are see-through, over the page's hatching."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="tile-image"><img alt="{escape(alt)}" src="{data_uri(image)}">{below}</figure>'


def data_uri(image: Float[np.ndarray, "h w c"]) -> str:
    """A small PNG as text; the same image always gives the same bytes."""
    alpha = (~np.isnan(image).any(axis=-1, keepdims=True)).astype(float)
    colour = np.nan_to_num(np.broadcast_to(image[..., :3], (*image.shape[:2], 3)))
    pixels = np.round(np.concatenate([colour, alpha], axis=-1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png", metadata={"Software": ""})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def heat(
    release: Float[np.ndarray, "h w c"], under: Float[np.ndarray, "h w c"]
) -> Float[np.ndarray, "h w 3"]:
    """Energy that each pixel would release, glowing over a dim copy of the image."""
    warmth = np.nan_to_num(release).clip(0).sum(axis=-1)
    glow = colormaps["inferno"](warmth / (warmth.max() or 1.0))[..., :3]
    return np.maximum(glow, 0.22 * np.nan_to_num(np.broadcast_to(under, (*under.shape[:2], 3))))


def gallery(tiles: list[str]) -> str:
    """Tiles that wrap."""
    return f'<div class="gallery">{"".join(tiles)}</div>'


def strips(headings: list[str], rows: list[list[str]]) -> str:
    """One line of tiles a row, under headings."""
    head = "".join(f"<span>{escape(text)}</span>" for text in headings)
    body = "".join(f'<div class="strip">{"".join(row)}</div>' for row in rows)
    columns = f"--columns:{len(headings)}"
    return f'<div class="strips" style="{columns}"><div class="strip head">{head}</div>{body}</div>'
