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
from typing import IO, Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from anomalib_fbclip.errors import ImageError, last_line
from anomalib_fbclip.images.image_files import printable

from .image_files import LONGEST_SIGNATURE, RAW, VIDEO, describe_folder, kind_of


class KeptPhotograph(NamedTuple):
    """A photograph that a product's file keeps, at the size that it needs.

    Attributes:
        name (str): Its name.
        content (bytes): Content as a PNG file.
        size (int): Bytes of the file that it comes from; 0 if it comes from none.
        digest (str): SHA-256 of that file or, without one, of its pixels.
    """

    name: str
    content: bytes
    size: int
    digest: str

    def check(self) -> None:
        """Check that it is not damaged, without decoding it.

        Raises:
            ImageError: If it is.
        """
        with _open(self) as image:
            image.verify()


def digest_file(path: str | Path) -> str:
    """Digest a file, so that it can be told from others when it is gone."""
    return sha256(Path(path).read_bytes()).hexdigest()


PhotographSource = str | Path | Image.Image | KeptPhotograph
"""A file, an image of Pillow, or what a product's file keeps."""

# What Pillow raises for files that are damaged, or no images.
DECODING_ERRORS = (OSError, SyntaxError, TypeError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

MOST_PIXELS = 1 << 28
"""Pixels of the largest photograph that is read: 16384 x 16384. Pillow by itself stops at two thirds of that."""

_PILLOWS_LIMIT = threading.RLock()
"""Held while Pillow's limit, which all threads share, is another."""

ROWS_AT_ONCE = 256
"""Rows of 16-bit values that are converted at the same time: each takes several times its memory."""

OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""Byte order in which Pillow takes the lower byte of a 16-bit value for the upper one."""

COLORS = {f"{layout};16{order}" for layout in ("RGB", "RGBA", "RGBX") for order in OTHER_BYTE}
"""Pillow's names of 16-bit values of which it keeps the upper byte."""

GRAY_AND_ALPHA = "LA;16B"

EIGHT_BITS = 255
SIXTEEN_BITS = 65535

COLOR_STRIDE, GRAY_TOLERANCE = 8, 2
"""Of so many rows and columns one is looked at for color; and how far the channels of a gray pixel may differ."""

CAMERA_LIMIT = 1 << 14
"""Values below may be those of a camera with 10, 12 or 14 bits."""

SAY_WHITE = "Say which value is white, for 12 bits with --white-level 4095 (in anomalib: --model.white_level 4095)"
"""Advice where the range of values is unknown."""

BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE, PLANAR_CONFIGURATION, SAMPLE_FORMAT = 258, 262, 281, 284, 339
"""Tags of TIFF."""

WHITE_IS_ZERO, SEPARATE_PLANES, SIGNED = 0, 2, 2

SCALES = (8, 4, 2)
"""Parts of its size that a JPEG can be decoded at."""

TURNED = {5, 6, 7, 8}
"""Orientations of EXIF data with which height and width change places."""

TileT = TypeVar("TileT", bound=tuple[Any, ...])


class Enough(NamedTuple):
    """A size that suffices.

    Attributes:
        longer (int): Pixels of the longer side.
        shorter (int): Pixels of the shorter side.
    """

    longer: int
    shorter: int


class Photograph(NamedTuple):
    """A photograph, upright, perhaps at a part of its size.

    Attributes:
        pixels (NDArray[np.uint8]): RGB values of shape ``[h, w, 3]``.
        size (tuple[int, int]): Height and width of the whole photograph in pixels.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


def describe_pages(paths: Iterable[str | Path]) -> list[str]:
    """List the photographs with several pages, of which only the first is inspected.

    Args:
        paths (Iterable[str | Path]): The photographs.

    Returns:
        list[str]: A line for each photograph of several pages. Files that can't be read have none.
    """
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
    """Read height and width of a photograph, upright, from its file's header.

    Args:
        path (str | Path): The photograph.

    Returns:
        tuple[int, int]: Height and width in pixels.

    Raises:
        ImageError: If the header can't be read.
    """
    with _open(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image, printable(path)) in TURNED else (height, width)


def needs_own_reading(path: str | Path) -> bool:
    """Tell from a file's header whether it is deeper than 8 bits, so that Pillow alone does not make it RGB.

    Args:
        path (str | Path): The photograph.

    Returns:
        bool: Whether :func:`read_photograph` gives another picture than ``Image.open(path).convert("RGB")``.

    Raises:
        ImageError: If the header can't be read.
    """
    with _open(path) as image:
        return _is_deep(image) or _is_signed(image)


def check_white_level(white_level: int | None) -> None:
    """Check that a value can be white in a photograph of 16 bits.

    Args:
        white_level (int | None): The value; ``None`` if none was given.

    Raises:
        ValueError: If it is not in 1..65535.
    """
    if white_level is not None and not 1 <= white_level <= SIXTEEN_BITS:
        msg = f"white_level must be in 1..{SIXTEEN_BITS}, but is {white_level}: 4095 is white in 12 bits."
        raise ValueError(msg)


def read_photograph(
    source: PhotographSource, *, upright: bool, minimum_side: int = 1, white_level: int | None = None
) -> NDArray[np.uint8]:
    """Read a photograph as RGB values.

    A photograph of more than 8 bits gives the same picture as with 8 bits. It is refused if its range is not known.

    Args:
        source (PhotographSource): The file, or an image of Pillow.
        upright (bool): Whether it is turned as its EXIF data say. Otherwise it is as Pillow loads it: as it is stored
            or, if it is a TIFF, upright.
        minimum_side (int, optional): Pixels that each side must have. Defaults to ``1``.
        white_level (int | None, optional): Value of white in a file of more than 8 bits that does not say it: 4095 for
            12 bits. ``None``: such a file is refused where its range is not known. Defaults to ``None``.

    Returns:
        NDArray[np.uint8]: RGB values of shape ``[H, W, 3]``.

    Raises:
        ImageError: If it can't be read, its range is not known or is another, or it is too small.
    """
    if isinstance(source, Image.Image):
        name = os.fsdecode(getattr(source, "filename", "")) or "The image"
        with _naming(name):
            return _read(source, name, upright, minimum_side, None, white_level).pixels
    with _open(source) as image:
        return _read(image, _name_of(source), upright, minimum_side, None, white_level).pixels


def read_reduced(
    source: PhotographSource, *, enough: Enough | None, minimum_side: int = 1, white_level: int | None = None
) -> Photograph:
    """Read a photograph upright, at an eighth, a quarter or half of its size if that is enough.

    A JPEG is decoded at this part of its size, as far as its sides are multiples of it. Otherwise, pixels are averaged
    in squares.

    Args:
        source (PhotographSource): The file, or an image of Pillow.
        enough (Enough | None): Size that is enough. ``None``: the whole size is needed.
        minimum_side (int, optional): Pixels that each side of the whole photograph must have. Defaults to ``1``.
        white_level (int | None, optional): As :func:`read_photograph` takes it. Defaults to ``None``.

    Returns:
        Photograph: The photograph.

    Raises:
        ImageError: If it can't be read, its range is not known or is another, or it is too small.
    """
    if isinstance(source, Image.Image):
        name = os.fsdecode(getattr(source, "filename", "")) or "The image"
        with _naming(name):
            return _read(source, name, True, minimum_side, enough, white_level)
    with _open(source) as image:
        return _read(image, _name_of(source), True, minimum_side, enough, white_level)


def check_size(name: str, height: int, width: int, minimum_side: int) -> None:
    """Check that a photograph is large enough.

    Args:
        name (str): What the photograph is called.
        height (int): Its height in pixels.
        width (int): Its width in pixels.
        minimum_side (int): Pixels that each side must have.

    Raises:
        ImageError: If it is too small.
    """
    if min(height, width) < minimum_side:
        msg = (
            f"{printable(name)} has {width} x {height} pixels, and each side needs {minimum_side} or more: "
            "give a larger image."
        )
        raise ImageError(msg)


@contextmanager
def _naming(name: str) -> Generator[None]:
    """Name the photograph, if Pillow can't read it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what it can read
            yield
    except DECODING_ERRORS as error:
        raise ImageError(_describe(name, error)) from error


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
    """Have Pillow open images of up to :data:`MOST_PIXELS`, which is more than it does by itself.

    Yields:
        None: Nothing. Other threads that come here wait.
    """
    with _PILLOWS_LIMIT:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def _name_of(source: str | Path | KeptPhotograph) -> str:
    return source.name if isinstance(source, KeptPhotograph) else os.fspath(source)


@contextmanager
def _open(path: str | Path | KeptPhotograph) -> Generator[ImageFile.ImageFile]:
    if isinstance(path, KeptPhotograph):
        with _naming(path.name), Image.open(io.BytesIO(path.content), formats=["PNG"]) as image:
            yield image
        return
    # Pillow maps some files into memory, if it knows their names, and then mixes up the pixels of turned ones.
    with _naming(os.fspath(path)), Path(path).open("rb") as file:
        kind = kind_of(Path(path), file.read(LONGEST_SIGNATURE))
        file.seek(0)
        if kind == VIDEO:
            msg = f"{printable(path)} is a video: name the file itself, as in fbclip video.mp4, to inspect its frames."
            raise ImageError(msg)
        if kind == RAW:  # Pillow takes the preview in it for the photograph
            raise ImageError(_describe_unread(path, kind))
        try:
            image = _open_of_any_size(file, os.fspath(path))
        except UnidentifiedImageError as error:
            if kind is None:
                raise
            raise ImageError(_describe_unread(path, kind)) from error
        with image:
            yield image


def _describe_unread(path: str | Path, kind: str) -> str:
    return (
        f"{printable(path)} can't be read as an image: it is damaged, or {kind} is not read here. Save it as PNG or "
        "JPEG."
    )


def _open_of_any_size(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    with larger_images():
        image = Image.open(file)
    if image.width * image.height > MOST_PIXELS:
        msg = (
            f"{printable(name)} has {image.width} x {image.height} pixels, and at most {MOST_PIXELS / 1e6:.0f} million "
            "are read: cut it into parts, or reduce it."
        )
        raise ImageError(msg)
    return image


def _read(
    image: Image.Image,
    name: str,
    upright: bool,
    minimum_side: int,
    enough: Enough | None,
    white_level: int | None,
) -> Photograph:
    scale = _choose_scale(image.size, enough)
    whole = image.size
    decoded = _choose_decoded_scale(image, scale)
    if decoded > 1:
        image.draft(None, (image.width // decoded, image.height // decoded))  # which JPEG files alone take notice of
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


def _choose_scale(size: tuple[int, int], enough: Enough | None) -> int:
    if enough is None:
        return 1
    most = min(max(size) // enough.longer, min(size) // enough.shorter)
    return next((scale for scale in SCALES if scale <= most), 1)


def _choose_decoded_scale(image: Image.Image, scale: int) -> int:
    """Choose the part that a JPEG is decoded at, of which no pixel has in it what lies beyond the last row or column.

    There, an encoder fills its blocks with anything.
    """
    sampling = max((factor for layer in getattr(image, "layer", ()) for factor in layer[1:3]), default=1)
    parts = (part for part in SCALES if part <= scale and not any(side % (part * sampling) for side in image.size))
    return next(parts, 1)


def _orientation(image: Image.Image, name: str) -> int:
    """Read which side of a loaded image is up; a PNG may say so after its pixels."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODING_ERRORS as error:
        msg = f"{printable(name)} has damaged EXIF data, so its orientation is unknown: save it without them."
        raise ImageError(msg) from error


def _turn_upright(photograph: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return photograph
    bare = Image.fromarray(np.asarray(photograph))  # Pillow can't write all EXIF data back
    bare.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(bare)


def _to_rgb(image: Image.Image, name: str, white_level: int | None) -> Image.Image:
    if not _is_deep(image):
        if _is_signed(image):
            msg = f"{printable(name)} has signed values, whose range is unknown: save it with values of 0 to 255."
            raise ImageError(msg)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # which copies an image that is RGB
    tags = _tags(image)
    is_fraction = image.mode == "F"
    pixels = _from_fractions(image, name) if is_fraction else _from_whole_numbers(image, name, white_level)
    inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO  # Pillow sees to it in images of 8 bits
    return Image.fromarray(EIGHT_BITS - pixels if inverted else pixels).convert("RGB")


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Give the tags of a TIFF; other images have none."""
    return getattr(image, "tag_v2", {})


def _tiles(image: Image.Image) -> list[Any]:
    """Give where the pieces of an image lie in its file, and how; an image in memory has none."""
    return getattr(image, "tile", [])


def _storage(image: Image.Image) -> str:
    """Give Pillow's name of how the values lie in the file; nothing for an image in memory."""
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
        or max(_tags(image).get(BITS_PER_SAMPLE, (1,))) > 8  # noqa: PLR2004
    )


def _is_deep_ppm(image: Image.Image) -> bool:
    """Tell whether it is a binary PPM with values of 0 to 65535, of which Pillow keeps 8 bits."""
    return image.format == "PPM" and [(tile[0], tile[3]) for tile in _tiles(image)] == [("ppm", ("RGB", SIXTEEN_BITS))]


def _is_signed(image: Image.Image) -> bool:
    return SIGNED in _tags(image).get(SAMPLE_FORMAT, ())


def _from_fractions(image: Image.Image, name: str) -> NDArray[np.uint8]:
    values = np.asarray(image)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        msg = (
            f"{printable(name)} has floating-point values of {values.min():g} to {values.max():g}, so that their range "
            "is not known: save it with 8 bits, or with values of 0 to 1."
        )
        raise ImageError(msg)
    return (EIGHT_BITS * values).round().astype(np.uint8)


def _from_whole_numbers(image: Image.Image, name: str, white_level: int | None) -> NDArray[np.uint8]:
    maximum = _known_maximum(image)
    values = _load_whole_numbers(image, name, white_level)
    smallest, largest = int(values.min()), int(values.max())
    if maximum is not None:
        if largest > maximum:
            msg = (
                f"{printable(name)} has values up to {largest}, and says that they end at {maximum}: save it with 8 "
                "bits."
            )
            raise ImageError(msg)
        return _to_eight_bits(values, maximum)
    if white_level is not None:
        if smallest < 0 or largest > white_level:
            msg = (
                f"{printable(name)} has values of {smallest} to {largest}, and the white level of {white_level} allows "
                f"0 to {white_level}: give another one, or save it with 8 bits."
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
    """Give the value of white, if the file says it."""
    tags = _tags(image)
    bits = max(tags.get(BITS_PER_SAMPLE, (16,)))
    if MAX_SAMPLE_VALUE in tags:
        bits = max(tags[MAX_SAMPLE_VALUE]).bit_length()  # it may be the largest value that occurs
    elif bits >= 16:  # noqa: PLR2004
        # Pillow spreads the values of a PGM over 16 bits, if it says that they end before.
        return SIXTEEN_BITS if image.format == "PPM" and _storage(image) == "L" else None
    return (1 << bits) - 1


def _load_whole_numbers(image: Image.Image, name: str, white_level: int | None) -> NDArray[Any]:
    """Load 16-bit values, and 32-bit ones if white is known: gray ``[H, W]`` or RGB ``[H, W, 3]``."""
    storage = _storage(image)
    planes = _tags(image).get(PLANAR_CONFIGURATION)
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
    msg = f"{printable(name)} has more than 8 bits in an unsupported form ({kind}): save it with 8 bits."
    raise ImageError(msg)


def _load_as(image: Image.Image, storage: str) -> NDArray[np.uint8]:
    """Load an image's file once more, as if its values lay there in another way."""
    file = cast("Any", image).fp
    file.seek(0)
    with larger_images():
        again = Image.open(file)
    again.seek(image.tell())
    again.tile = [_with_storage(tile, storage) for tile in again.tile]
    return np.asarray(again)


def _with_storage(tile: TileT, storage: str) -> TileT:
    """Change how the values of a piece of an image lie in its file."""
    *place, arguments = tile
    changed = (storage, *arguments[1:]) if isinstance(arguments, tuple) else storage
    make: Any = getattr(type(tile), "_make", tuple)  # a named tuple since Pillow 11
    return make((*place, changed))


def is_gray(pixels: NDArray[np.integer]) -> bool:
    """Return whether a photograph has no color, even if its file has three channels.

    Args:
        pixels (NDArray[np.integer]): RGB values 0..255, shape ``[H, W, 3]``.

    Returns:
        bool: Whether all channels are alike.
    """
    some = pixels[::COLOR_STRIDE, ::COLOR_STRIDE].astype(int)
    return bool((some.max(axis=-1) - some.min(axis=-1)).max() <= GRAY_TOLERANCE)
