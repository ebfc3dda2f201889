# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Photographs as 8-bit RGB values. The package's own code reads them only here."""

import errno
import io
import os
import struct
import sys
import threading
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from anomalib_fbclip.errors import ImageError, last_line

from .image_files import LONGEST_SIGNATURE, RAW, VIDEO, describe_folder, kind_of, printable


class KeptPhotograph(NamedTuple):
    """A photograph kept in a product's file, at the size that the model needs.

    Attributes:
        content (bytes): A PNG file.
        size (int): Size of the original file in bytes; 0 without a file.
        digest (str): SHA-256 of the original file; without a file, of the pixels.
    """

    name: str
    content: bytes
    size: int
    digest: str

    def check(self) -> None:
        """Raise an ``ImageError`` if the PNG file is damaged, without decoding it."""
        with _open(self) as image:
            image.verify()


def digest_file(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    return sha256(Path(path).read_bytes()).hexdigest()


PhotographSource = str | Path | Image.Image | KeptPhotograph
"""A file, a Pillow image, or a photograph kept in a product."""

# What Pillow raises for files that are damaged or not images.
DECODING_ERRORS = (OSError, SyntaxError, TypeError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

MOST_PIXELS = 1 << 28
"""Most pixels that are read: 16384 x 16384. Pillow's own limit is two thirds of that."""

_PILLOWS_LIMIT = threading.RLock()
"""Held while Pillow's limit is raised, because all threads share it, and while the process forks: a dataloader's worker
would wait for a thread that it does not have."""
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(
        before=_PILLOWS_LIMIT.acquire, after_in_parent=_PILLOWS_LIMIT.release, after_in_child=_PILLOWS_LIMIT.release
    )

# Pillow warns of flaws of files that it can read. For the whole process: threads can't change filters for a while.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

ROWS_AT_ONCE = 256
"""Rows of 16-bit values converted at a time: the conversion takes several times their memory."""

OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""Byte order with which Pillow reads the lower byte of a 16-bit value as the upper one."""

COLORS = {f"{layout};16{order}" for layout in ("RGB", "RGBA", "RGBX") for order in OTHER_BYTE}
"""Pillow's names of 16-bit color formats, of which it keeps only the upper byte."""

GRAY_AND_ALPHA = "LA;16B"

EIGHT_BITS = 255
SIXTEEN_BITS = 65535

COLOR_STRIDE, GRAY_TOLERANCE = 8, 2
"""Distance between the pixels that are checked for color, and largest difference of a gray pixel's channels."""

CAMERA_LIMIT = 1 << 14
"""Values below this may come from a camera with 10, 12 or 14 bits."""

SAY_WHITE = "Say which value is white, for 12 bits with --white-level 4095 (in anomalib: --model.white_level 4095)"
"""Advice for an unknown range of values."""

WHITE_IS_ZERO, SEPARATE_PLANES, SIGNED = 0, 2, 2
"""Values of TIFF's tags for the photometric interpretation, the planar configuration and the sample format."""

SCALES = (8, 4, 2)
"""Factors by which a JPEG can be reduced as it is decoded."""

TURNED = {5, 6, 7, 8}
"""EXIF orientations that swap height and width."""


class Enough(NamedTuple):
    """Number of pixels that suffices for the longer and for the shorter side of a photograph."""

    longer: int
    shorter: int


class Photograph(NamedTuple):
    """A photograph's RGB values ``[h, w, 3]``, possibly reduced, and its height and width before the reduction."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


def describe_pages(paths: Iterable[str | Path]) -> list[str]:
    """Warn, in a line for each photograph with several pages, that only the first is inspected."""
    lines = []
    for path in paths:
        try:
            with _open(path) as image:
                pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's JPEG and its preview
                kind = "pages" if image.format == "TIFF" else "frames"
        except ImageError:
            continue  # the reader reports it
        if pages > 1:
            lines.append(f"{printable(path)} has {pages} {kind}: only the first is inspected.")
    return lines


def read_size(path: str | Path) -> tuple[int, int]:
    """Read the height and width of a photograph, upright, in pixels, from its file's header."""
    with _open(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image, printable(path)) in TURNED else (height, width)


def needs_own_reading(path: str | Path) -> bool:
    """Tell from a file's header whether ``Image.open(path).convert("RGB")`` would misread it."""
    with _open(path) as image:
        return _is_deep(image) or _is_signed(image)


def check_white_level(white_level: int | None) -> None:
    """Raise an error if a value can't be white in a photograph of 16 bits."""
    if white_level is not None and not 1 <= white_level <= SIXTEEN_BITS:
        msg = f"white_level {white_level} is not in 1..{SIXTEEN_BITS}: for 12 bits give 4095."
        raise ValueError(msg)


def read_photograph(
    source: PhotographSource, *, upright: bool, minimum_side: int = 1, white_level: int | None = None
) -> NDArray[np.uint8]:
    """Read a photograph as RGB values ``[H, W, 3]``.

    Values of more than 8 bits are scaled to 8 bits. ``white_level`` is the value of white in files that don't state it:
    4095 for 12 bits. The photograph is turned ``upright`` by its EXIF data; Pillow does so with a TIFF in any case. If
    it can't be read, its range is unknown or exceeded, or a side is too short, that is an ``ImageError``.
    """
    return read_reduced(source, enough=None, minimum_side=minimum_side, white_level=white_level, upright=upright).pixels


def read_reduced(
    source: PhotographSource,
    *,
    enough: Enough | None,
    minimum_side: int = 1,
    white_level: int | None = None,
    upright: bool = True,
) -> Photograph:
    """Read a photograph at an eighth, a quarter or half of its size if that is ``enough``.

    A JPEG is decoded at the smaller size if its sides are multiples of the factor. Otherwise, squares of pixels are
    averaged. The rest is as in :func:`read_photograph`, and the minimum is that of the sides before the reduction.
    """
    name = _name_of(source)
    with _open(source) as image:
        scale = _choose_scale(image.size, enough)
        whole = image.size
        decoded = _choose_decoded_scale(image, scale)
        if decoded > 1:
            image.draft(None, (image.width // decoded, image.height // decoded))  # only JPEG files follow it
        is_decoded_whole = image.size == whole
        photograph = _to_rgb(image, name, white_level)
        if is_decoded_whole:
            whole = photograph.size  # a TIFF is upright once it is loaded
        left = scale if is_decoded_whole else scale // decoded
        photograph = photograph.reduce(left) if left > 1 else photograph
        width, height = whole
        if upright and image.format != "TIFF":
            orientation = _orientation(image, name)
            photograph = _turn_upright(photograph, orientation)
            height, width = (width, height) if orientation in TURNED else (height, width)
        check_size(name, height, width, minimum_side)
        return Photograph(np.array(photograph), (height, width))


def check_size(name: str, height: int, width: int, minimum_side: int) -> None:
    """Raise an ``ImageError`` unless each side of a photograph has ``minimum_side`` pixels or more."""
    if min(height, width) < minimum_side:
        msg = (
            f"{printable(name)} has {width} x {height} pixels, and each side needs {minimum_side} or more: "
            "give a larger image."
        )
        raise ImageError(msg)


def _describe(name: str, error: Exception) -> str:
    """Say why a file can't be read, and what to do about it."""
    path = Path(name)
    if isinstance(error, OSError) and error.errno is not None and path.is_dir():
        return describe_folder(path, error)
    if isinstance(error, FileNotFoundError):
        why = (
            f"it is a link to {printable(path.readlink())}, which does not exist. Repair the link, or delete it."
            if path.is_symlink()
            else "there is no such file. Check whether it was moved, renamed or deleted."
        )
    elif isinstance(error, OSError) and error.errno == errno.ELOOP:
        why = "it is a link to itself. Repair the link, or delete it."
    elif isinstance(error, PermissionError):
        why = f"{error.strerror}. Give this user access to the file."
    elif isinstance(error, OSError) and error.errno is not None:
        why = f"{error.strerror}. Check its disk."
    elif isinstance(error, UnidentifiedImageError):
        why = "it is damaged, or of an unknown kind. Save it as PNG or JPEG."
    else:
        why = f"{last_line(error)}. Save it as PNG or JPEG."
    return f"{printable(name)} can't be read as an image: {why}"


@contextmanager
def larger_images() -> Generator[None]:
    """Raise Pillow's limit to :data:`MOST_PIXELS`. One thread at a time can do so."""
    with _PILLOWS_LIMIT:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def _name_of(source: PhotographSource) -> str:
    if isinstance(source, Image.Image):
        return os.fsdecode(getattr(source, "filename", "")) or "The image"
    return source.name if isinstance(source, KeptPhotograph) else os.fspath(source)


@contextmanager
def _naming(name: str) -> Generator[None]:
    """Name the photograph in an ``ImageError``, if Pillow can't read it."""
    try:
        yield
    except DECODING_ERRORS as error:
        raise ImageError(_describe(name, error)) from error


@contextmanager
def _open(source: PhotographSource) -> Generator[Image.Image]:
    name = _name_of(source)
    with _naming(name):
        if isinstance(source, Image.Image):
            yield source
        elif isinstance(source, KeptPhotograph):
            with Image.open(io.BytesIO(source.content), formats=["PNG"]) as image:
                yield image
        else:
            # If Pillow knew a file's name, it might map the file into memory, and then mix up the pixels of a turned
            # image.
            with Path(source).open("rb") as file, _open_file(file, name) as image:
                yield image


def _open_file(file: IO[bytes], name: str) -> Image.Image:
    kind = kind_of(Path(name), file.read(LONGEST_SIGNATURE))
    file.seek(0)
    if kind == VIDEO:
        msg = f"{printable(name)} is a video: name the file itself, as in fbclip video.mp4, to inspect its frames."
        raise ImageError(msg)
    unsupported = (
        f"{printable(name)} can't be read as an image: {kind} is not supported, or the file is damaged. Save it as PNG "
        "or JPEG."
    )
    if kind == RAW:  # Pillow would read only the preview
        raise ImageError(unsupported)
    try:
        with larger_images():
            image = Image.open(file)
    except UnidentifiedImageError as error:
        if kind is None:
            raise
        raise ImageError(unsupported) from error
    if image.width * image.height > MOST_PIXELS:
        msg = (
            f"{printable(name)} has {image.width} x {image.height} pixels, and at most {MOST_PIXELS / 1e6:.0f} million "
            "are read: cut it into parts, or reduce it."
        )
        raise ImageError(msg)
    return image


def _choose_scale(size: tuple[int, int], enough: Enough | None) -> int:
    if enough is None:
        return 1
    most = min(max(size) // enough.longer, min(size) // enough.shorter)
    return next((scale for scale in SCALES if scale <= most), 1)


def _choose_decoded_scale(image: Image.Image, scale: int) -> int:
    """Choose a factor for decoding a JPEG that divides its sides: the padding of the last blocks may hold anything."""
    sampling = max((factor for layer in getattr(image, "layer", ()) for factor in layer[1:3]), default=1)
    parts = (part for part in SCALES if part <= scale and not any(side % (part * sampling) for side in image.size))
    return next(parts, 1)


def _orientation(image: Image.Image, name: str) -> int:
    """Read the EXIF orientation of a loaded image: in a PNG it may come after the pixels."""
    try:
        return image.getexif().get(Tag.Orientation, 1)
    except DECODING_ERRORS as error:
        msg = f"{printable(name)} has damaged EXIF data, so its orientation is unknown: save it without them."
        raise ImageError(msg) from error


def _turn_upright(photograph: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return photograph
    bare = Image.fromarray(np.asarray(photograph))  # Pillow can't write all EXIF data back
    bare.getexif()[Tag.Orientation] = orientation
    return ImageOps.exif_transpose(bare)


def _to_rgb(image: Image.Image, name: str, white_level: int | None) -> Image.Image:
    if not _is_deep(image):
        if _is_signed(image):
            msg = f"{printable(name)} has signed values, whose range is unknown: save it with values of 0 to 255."
            raise ImageError(msg)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy an RGB image
    tags = _tags(image)
    is_fraction = image.mode == "F"
    pixels = _from_fractions(image, name) if is_fraction else _from_whole_numbers(image, name, white_level)
    inverted = tags.get(Tag.PhotometricInterpretation) == WHITE_IS_ZERO  # Pillow inverts only 8 bits
    return Image.fromarray(EIGHT_BITS - pixels if inverted else pixels).convert("RGB")


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of a TIFF; other images have none."""
    return getattr(image, "tag_v2", {})


def _tiles(image: Image.Image) -> list[Any]:
    """Return the place and layout of an image's pieces in its file; an image in memory has none."""
    return getattr(image, "tile", [])


def _storage(image: Image.Image) -> str:
    """Return Pillow's name of the values' layout in the file; empty for an image in memory."""
    tiles = _tiles(image)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _is_deep(image: Image.Image) -> bool:
    storage = _storage(image)
    return (
        image.mode in {"I", "F"}
        or image.mode.startswith("I;16")
        or storage in COLORS
        or storage == GRAY_AND_ALPHA
        or _is_deep_ppm(image)
        or max(_tags(image).get(Tag.BitsPerSample, (1,))) > 8  # noqa: PLR2004
    )


def _is_deep_ppm(image: Image.Image) -> bool:
    """Tell whether an image is a binary PPM with 16-bit values, of which Pillow keeps 8 bits."""
    return image.format == "PPM" and [(tile[0], tile[3]) for tile in _tiles(image)] == [("ppm", ("RGB", SIXTEEN_BITS))]


def _is_signed(image: Image.Image) -> bool:
    return SIGNED in _tags(image).get(Tag.SampleFormat, ())


def _from_fractions(image: Image.Image, name: str) -> NDArray[np.uint8]:
    values = np.asarray(image)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        msg = (
            f"{printable(name)} has floating-point values of {values.min():g} to {values.max():g}, so their range is "
            "unknown: save it with 8 bits, or with values of 0 to 1."
        )
        raise ImageError(msg)
    return (EIGHT_BITS * values).round().astype(np.uint8)


def _from_whole_numbers(image: Image.Image, name: str, white_level: int | None) -> NDArray[np.uint8]:
    maximum = _known_maximum(image)
    values = _load_whole_numbers(image, name, white_level)
    smallest, largest = int(values.min()), int(values.max())
    if maximum is not None:
        if largest > maximum:
            msg = f"{printable(name)} has values up to {largest}, above its stated {maximum}: save it with 8 bits."
            raise ImageError(msg)
        return _to_eight_bits(values, maximum)
    if white_level is not None:
        if smallest < 0 or largest > white_level:
            msg = (
                f"{printable(name)} has values of {smallest} to {largest}, not within 0 and the white level of "
                f"{white_level}: give another white level, or save it with 8 bits."
            )
            raise ImageError(msg)
        return _to_eight_bits(values, white_level)
    if not (values & 0xFF).any():
        return (values >> 8).astype(np.uint8)
    if largest < CAMERA_LIMIT and (values % 257).any():
        msg = (
            f"{printable(name)} has 16 bits, but no value above {largest}: it may be dark, or come from a camera with "
            f"10, 12 or 14 bits. {SAY_WHITE}, or save it with 8 bits."
        )
        raise ImageError(msg)
    return _to_eight_bits(values, SIXTEEN_BITS)


def _to_eight_bits(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Round whole numbers of 0 to ``white`` to 8 bits."""
    pixels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), ROWS_AT_ONCE):
        rows = values[start : start + ROWS_AT_ONCE].astype(np.uint32)
        pixels[start : start + ROWS_AT_ONCE] = (rows * EIGHT_BITS + white // 2) // white
    return pixels


def _known_maximum(image: Image.Image) -> int | None:
    """Return the value of white, if the file states it."""
    tags = _tags(image)
    bits = max(tags.get(Tag.BitsPerSample, (16,)))
    if Tag.MaxSampleValue in tags:
        bits = max(tags[Tag.MaxSampleValue]).bit_length()  # it may be the largest value that occurs
    elif bits >= 16:  # noqa: PLR2004
        # Pillow scales the values of a PGM with a lower maximum to 16 bits.
        return SIXTEEN_BITS if image.format == "PPM" and _storage(image) == "L" else None
    return (1 << bits) - 1


def _load_whole_numbers(image: Image.Image, name: str, white_level: int | None) -> NDArray[Any]:
    """Load 16-bit values, and 32-bit ones if white is known: gray ``[H, W]`` or RGB ``[H, W, 3]``."""
    storage = _storage(image)
    planes = _tags(image).get(Tag.PlanarConfiguration)
    if storage in COLORS and planes != SEPARATE_PLANES:
        lower = _load_as(image, storage[:-1] + OTHER_BYTE[storage[-1]])
        return (np.asarray(image).astype(np.uint16) << 8 | lower)[..., :3]
    if storage == GRAY_AND_ALPHA:
        upper, lower, *_ = _load_as(image, "RGBA").transpose(2, 0, 1)  # four bytes a pixel, too
        return upper.astype(np.uint16) << 8 | lower
    if _is_deep_ppm(image):
        file = cast("Any", image).fp
        file.seek(_tiles(image)[0][2])
        content = file.read(2 * 3 * image.width * image.height)
        return np.frombuffer(content, ">u2").reshape(image.height, image.width, 3)
    kind = storage or image.mode
    if image.mode == "I" and image.format not in {"PNG", "PPM"} and white_level is None:
        msg = (
            f"{printable(name)} has whole numbers whose range is unknown ({kind}). {SAY_WHITE}, or save it with 8 bits."
        )
        raise ImageError(msg)
    if image.mode.startswith("I"):
        return np.asarray(image)
    msg = f"{printable(name)} has more than 8 bits in an unsupported format ({kind}): save it with 8 bits."
    raise ImageError(msg)


def _load_as(image: Image.Image, storage: str) -> NDArray[np.uint8]:
    """Load an image's file again, with its values read in another layout."""
    file = cast("Any", image).fp
    file.seek(0)
    with larger_images():
        again = Image.open(file)
    again.seek(image.tell())
    again.tile = [_with_storage(tile, storage) for tile in again.tile]
    return np.asarray(again)


def _with_storage(tile: Any, storage: str) -> Any:  # noqa: ANN401 - Pillow's own type has no public name
    """Change the layout of a piece of an image."""
    *place, arguments = tile
    changed = (storage, *arguments[1:]) if isinstance(arguments, tuple) else storage
    make = getattr(type(tile), "_make", tuple)  # a named tuple since Pillow 11
    return make((*place, changed))


def is_gray(pixels: NDArray[np.integer]) -> bool:
    """Return whether RGB values 0..255 of shape ``[H, W, 3]`` have no color."""
    some = pixels[::COLOR_STRIDE, ::COLOR_STRIDE].astype(int)
    return bool((some.max(axis=-1) - some.min(axis=-1)).max() <= GRAY_TOLERANCE)
