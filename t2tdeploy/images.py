"""Pictures to pixels: files of many formats and modes as the uint8 arrays of one size that a model takes.

Training data and requests are decoded through this one file, so that a model is asked what it was trained on.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from t2tdeploy.errors import InputError
from t2tdeploy.files import reading

Pixels = npt.NDArray[np.uint8]

# Those that Pillow decodes by itself, without another program, from bytes that anybody may have sent.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
FORMATS_IN_WORDS = "PNG, JPEG, WebP, BMP, GIF, TIFF or PPM"
MOST_PIXELS = 2**26  # of a picture before it is resized
_MODES = {1: "L", 3: "RGB"}


def decode_image(content: bytes, shape: tuple[int, ...]) -> Pixels:
    """The first picture of a file, the way it is meant to be seen, as uint8 `shape` = (height, width, channels).

    It is turned as its EXIF data say, transparent places are white, and its middle is cut out in the proportions of
    `shape` and resized. Three channels are red, green and blue, one is grey; grey of 16 bits, or of as many in
    32, keeps its upper ones.

    Raises:
        InputError: the bytes are no picture of a format in `FORMATS`, are damaged or cut off, have more than
            `MOST_PIXELS`, or pixels that are floating-point numbers, or 8 bits in 32.
    """
    if not content:
        raise InputError("not an image: it has no bytes")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(f"too large: {image.width} × {image.height} pixels; at most {MOST_PIXELS} are decoded")
            image.load()
            return fit_image(image, shape)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"not an image: neither {FORMATS_IN_WORDS.replace(' or ', ' nor ')}") from None
    except Exception as error:  # Pillow's decoders meet damaged bytes with exceptions of many kinds
        raise InputError(f"a damaged image: {error}") from error


def read_image(path: Path, shape: tuple[int, ...]) -> Pixels:
    """`decode_image` of a file.

    Raises:
        InputError: as there, or the file cannot be read.
    """
    with reading(path):
        content = path.read_bytes()
    return decode_image(content, shape)


def fit_array(pixels: npt.NDArray[np.generic], shape: tuple[int, ...]) -> Pixels:
    """Pixels of any size, uint8 [height, width] or [height, width, 1, 3 or 4 channels], as `decode_image` gives them.

    Raises:
        InputError: another type, number of axes or of channels; or nothing in it.
    """
    planes = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if planes.dtype != np.uint8 or not (planes.ndim == 2 or (planes.ndim == 3 and planes.shape[2] in (3, 4))):
        raise InputError(
            f"pixels are {pixels.dtype} {list(pixels.shape)}",
            help="give uint8 [height, width] or [height, width, channels] with 1, 3 or 4 channels",
        )
    if not planes.size:
        raise InputError(f"pixels are {list(pixels.shape)}: there are none")
    return fit_image(Image.fromarray(planes), shape)


def fit_image(image: Image.Image, shape: tuple[int, ...]) -> Pixels:
    """A picture in memory, as `decode_image` gives it.

    Raises:
        InputError: its pixels are floating-point numbers, or 8 bits in 32.
    """
    height, width, channels = shape
    image = _eight_bits(ImageOps.exif_transpose(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert(_MODES[channels])
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.array(image, np.uint8).reshape(shape)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise InputError("its pixels are floating-point numbers, and nothing tells which of them is white")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if image.mode == "I" and 0 < values.max() <= 255:
        raise InputError(
            f"its pixels are 32-bit numbers of at most {values.max()}, all black: white is 65535",
            help="save it with 8 bits",
        )
    grey = (values >> 8).clip(0, 255).astype(np.uint8)  # Pillow's own conversion would make white of all above 255
    opaque = np.where(values == image.info.get("transparency"), 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(opaque)))
