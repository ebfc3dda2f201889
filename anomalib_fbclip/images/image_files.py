# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Images of a folder, by name or by content, including those that can't be read, so that they are reported."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from anomalib_fbclip.errors import ImageError, last_line

IMAGE_SUFFIXES = {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Suffixes of common image formats."""

RAW, VIDEO = "camera raw", "video"

OTHER_FORMATS = {
    "HEIF": ".heic .heics .heif .heifs .hif",
    "AVIF": ".avif .avifs",
    RAW: (
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl "
        ".sr2 .srf .srw .x3f"
    ),
    VIDEO: ".avi .m4v .mkv .mov .mp4 .mpeg .mpg .webm .wmv",
    "JPEG": ".jfi .jif .jpe",
    "JPEG 2000": ".j2c .j2k .jp2 .jpc .jpf .jpx",
    "JPEG XL": ".jxl",
    "JPEG XR": ".jxr .wdp",
    "MPO": ".mpo",
    "DIB": ".dib",
    "PNM": ".pbm .pfm .pnm",
    "Photoshop": ".psb .psd",
    "OpenEXR": ".exr",
    "Radiance HDR": ".hdr",
    "DICOM": ".dcm .dicom",
    "FITS": ".fit .fits",
    "Targa": ".tga",
    "PCX": ".pcx",
    "GIMP": ".xcf",
    "APNG": ".apng",
}
"""Suffixes of videos and of other image formats, some of which Pillow reads."""

KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in OTHER_FORMATS.items() for suffix in suffixes.split()}

SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8",
    "WebP": rb"RIFF....WEBP",
    "BMP": rb"BM....\0\0\0\0",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "HEIF": rb"....ftyp(hei|hev|mif1|msf1)",
    "AVIF": rb"....ftypavi[fs]",
    VIDEO: rb"....ftyp(?!crx|M4A|M4B)|RIFF....AVI |\x1aE\xdf\xa3",
}
"""First bytes of files, by kind."""

LONGEST_SIGNATURE = 16

NOT_PHOTOGRAPHS = {
    ".ipynb_checkpoints",
    "__MACOSX",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
}
"""Folders of programs and file systems."""


def find_images(path: Path, *excluded: Path) -> list[Path]:
    """Find the images of a folder and its subfolders, sorted. Any other path is returned alone.

    Links are followed, each folder is searched once, and excluded ones are skipped. Unreadable images are included, so
    that the reader reports them: unsupported formats, videos, broken links, and folders without permission. If the
    folder itself can't be read, that is an ``ImageError``.
    """
    if not path.is_dir():
        return [path]
    try:
        os.scandir(path).close()
    except OSError as error:
        raise ImageError(describe_folder(path, error)) from error
    return [
        file for file in _walk(path, {folder.resolve() for folder in excluded} | {path.resolve()}) if is_image(file)
    ]


def describe_folder(path: str | Path, error: OSError) -> str:
    """Say why a folder can't be read, and what to do."""
    why = error.strerror or last_line(error)
    return f"{printable(path)} can't be read: {why}. Give this user access to the folder, or move it."


def is_foreign(path: Path) -> bool:
    """Return whether a path, relative to the searched folder, belongs to a program or a file system."""
    return any(part.startswith("._") or part in NOT_PHOTOGRAPHS for part in path.parts)  # macOS writes ._ files


def is_image(path: Path) -> bool:
    """Return whether a path is, or may be, an image or a video, by name or content."""
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - as in _walk
        return os.path.isdir(path)  # noqa: PTH112 - and neither a pipe nor a device
    suffix = path.suffix.lower()
    return suffix in IMAGE_SUFFIXES or suffix in KIND_OF_SUFFIX or _has_image(path, suffix)


def kind_of_content(head: bytes) -> str | None:
    """Return the kind of image or video from a file's first bytes; ``None`` if it is unknown."""
    return next((kind for kind, pattern in SIGNATURES.items() if re.match(pattern, head, re.DOTALL)), None)


def kind_of(path: Path, head: bytes) -> str | None:
    """Return the kind of image or video from a file's name and first bytes; ``None`` if it is unknown.

    Camera raw files have the first bytes of a TIFF, so their name decides.
    """
    content, named = kind_of_content(head), KIND_OF_SUFFIX.get(path.suffix.lower())
    return named if content is None or (content == "TIFF" and named == RAW) else content


def _walk(folder: Path, passed: set[Path]) -> Iterator[Path]:
    """Yield the files below a folder, and the folders that can't be read, in the order of their names."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        yield folder
        return
    for path in paths:
        if is_foreign(Path(path.name)):
            continue
        if not os.path.isdir(path):  # noqa: PTH112 - pathlib raises where the folder above can't be entered
            yield path
        elif (resolved := path.resolve()) not in passed:
            passed.add(resolved)
            yield from _walk(path, passed)


def _has_image(path: Path, suffix: str) -> bool:
    try:
        with path.open("rb") as file:
            return kind_of_content(file.read(LONGEST_SIGNATURE)) is not None
    except FileNotFoundError:  # a broken link, perhaps to a folder
        return not suffix
    except OSError:
        return True


def printable(path: str | os.PathLike[str]) -> str:
    r"""Format a path for the screen, in one line: unprintable characters, such as a line break, are escaped.

    Example:
        >>> print(printable("two\nlines.png"))
        two\nlines.png
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in os.fspath(path)
    )
