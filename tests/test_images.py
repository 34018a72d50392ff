"""Pictures of every mode and size become the same kind of array, whatever they were; what is none is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2tdeploy.errors import InputError
from t2tdeploy.images import FORMATS, MOST_PIXELS, decode_image, fit_array, read_image

SHAPE = (4, 6, 3)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def colourful(height: int = 4, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_a_picture_of_the_right_size_is_taken_as_it_is(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(colourful()), kind, **options)
    np.testing.assert_array_equal(decode_image(content, SHAPE), colourful())


def half_grey_half_white(mode: str) -> Image.Image:
    """6 × 4 pixels; where the mode has transparency, the white half is transparent black."""
    image = Image.new("RGBA", (6, 4), (128, 128, 128, 255))
    image.paste((0, 0, 0, 0) if mode in ("LA", "P", "RGBA") else (255, 255, 255, 255), (3, 0, 6, 4))
    if mode.startswith("I"):
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return Image.fromarray(grey if mode == "I;16" else grey.astype(np.int32))
    if mode == "1":
        return image.convert("L").point(lambda value: 255 * (value > 200)).convert("1")
    return image.quantize(8) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_is_read(mode: str) -> None:
    image = half_grey_half_white(mode)
    assert image.mode == mode
    found = decode_image(encoded(image, "TIFF" if mode in ("CMYK", "YCbCr", "I") else "PNG"), SHAPE)
    dark = 0 if mode == "1" else 128
    assert np.abs(found[:, :3].astype(int) - dark).max() <= 2
    assert found[:, 3:].min() >= 253


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(4, 6), (40, 60), (400, 30), (1, 1), (3, 300)])
def test_every_size_becomes_the_wanted_one(size: tuple[int, int], channels: int) -> None:
    found = decode_image(encoded(Image.fromarray(colourful(*size))), (4, 6, channels))
    assert found.shape == (4, 6, channels)
    assert found.dtype == np.uint8


def test_the_middle_is_kept_in_its_proportions() -> None:
    pixels = np.zeros((8, 32, 3), np.uint8)
    pixels[:, 12:20] = 255  # the square in the middle
    assert (decode_image(encoded(Image.fromarray(pixels)), (8, 8, 3)) == 255).all()


def test_a_photograph_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    content = encoded(Image.fromarray(colourful(6, 4)), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(content, SHAPE), np.rot90(colourful(6, 4), -1))


def test_the_first_picture_of_an_animation_counts() -> None:
    first, second = Image.new("L", (6, 4), 0), Image.new("L", (6, 4), 255)
    content = encoded(first, "GIF", save_all=True, append_images=[second])
    assert decode_image(content, SHAPE).max() == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_damaged_bytes_are_refused_whatever_the_format(kind: str) -> None:
    content = encoded(Image.fromarray(colourful(40, 60)), kind)
    for damaged in (content[: len(content) // 2], content[:12], b"junk" + content[4:]):
        with pytest.raises(InputError, match=r"not an image|damaged image"):
            decode_image(damaged, SHAPE)


@pytest.mark.parametrize(("content", "message"), [(b"", "no bytes"), (b"%PDF-1.7 hello", "not an image: neither PNG")])
def test_what_is_no_picture_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_image(content, SHAPE)


def test_a_picture_that_would_fill_the_memory_is_refused() -> None:
    side = int(MOST_PIXELS**0.5) + 1
    with pytest.raises(InputError, match="too large"):
        decode_image(encoded(Image.new("1", (side, side))), SHAPE)


def test_pixels_without_a_range_are_refused() -> None:
    content = encoded(Image.fromarray(np.ones((4, 6), np.float32)), "TIFF")
    with pytest.raises(InputError, match="floating-point"):
        decode_image(content, SHAPE)


def test_a_transparent_grey_of_16_bits_is_white() -> None:
    pixels = np.full((4, 6), 20_000, np.uint16)
    pixels[:, 3:], pixels[0, 3:] = 4_000, 4_001
    found = decode_image(encoded(Image.fromarray(pixels), "PNG", transparency=4_000), SHAPE)
    assert set(found[:, :3].ravel()) == {20_000 >> 8}
    assert set(found[0, 3:].ravel()) == {4_001 >> 8}
    assert set(found[1:, 3:].ravel()) == {255}


def test_eight_bits_in_32_are_refused_instead_of_being_black() -> None:
    for largest in (1, 200, 255):
        content = encoded(Image.fromarray(np.full((4, 6), largest, np.int32)), "TIFF")
        with pytest.raises(InputError, match=f"32-bit numbers of at most {largest}, all black") as caught:
            decode_image(content, SHAPE)
        assert "8 bits" in (caught.value.help or "")
    for value, grey in ((0, 0), (256, 1), (65_535, 255)):
        content = encoded(Image.fromarray(np.full((4, 6), value, np.int32)), "TIFF")
        assert set(decode_image(content, SHAPE).ravel()) == {grey}


def test_formats_that_need_other_programs_are_not_among_them() -> None:
    assert not {"EPS", "PSD", "FPX", "WMF"} & set(FORMATS)


@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 1), (8, 12, 3), (8, 12, 4)])
def test_arrays_are_taken_as_their_files_would_be(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(pixels.reshape(shape[:2]) if shape[2:] == (1,) else pixels)
    np.testing.assert_array_equal(fit_array(pixels, SHAPE), decode_image(encoded(image), SHAPE))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 6), np.float32), r"float32 \[4, 6\]"),
        (np.zeros((4, 6, 2), np.uint8), r"uint8 \[4, 6, 2\]"),
        (np.zeros((1, 4, 6, 3), np.uint8), r"uint8 \[1, 4, 6, 3\]"),
        (np.zeros((0, 6), np.uint8), "there are none"),
    ],
)
def test_other_arrays_are_refused(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_array(pixels, SHAPE)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.png"):
        read_image(tmp_path / "none.png", SHAPE)
