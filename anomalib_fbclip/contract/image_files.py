# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Which files of a folder are images, and which of them are not read."""

from pathlib import Path

from .records import printable

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Those of anomalib."""

RAW_SUFFIXES = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl "
    ".sr2 .srf .srw .x3f"
)

UNREAD_FORMATS = {
    "GIF": ".gif",
    "HEIF": ".heic .heics .heif .heifs .hif",
    "AVIF": ".avif .avifs",
    "camera raw": RAW_SUFFIXES,
    "JPEG 2000": ".j2c .j2k .jp2 .jpc .jpf .jpx",
    "JPEG XL": ".jxl",
    "JPEG XR": ".jxr .wdp",
    "JFIF": ".jfi .jfif .jif .jpe",
    "MPO": ".mpo",
    "DIB": ".dib",
    "PNM": ".pbm .pfm .pnm",
    "Photoshop": ".psb .psd",
    "SVG": ".svg .svgz",
    "PostScript": ".eps .ps",
    "OpenEXR": ".exr",
    "Radiance HDR": ".hdr",
    "DICOM": ".dcm .dicom",
    "FITS": ".fit .fits",
    "icon": ".icns .ico",
    "Targa": ".tga",
    "PCX": ".pcx",
    "GIMP": ".xcf",
    "APNG": ".apng",
}
"""Images that are not read, and their suffixes."""

KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in UNREAD_FORMATS.items() for suffix in suffixes.split()}


def find_images(path: Path, exclude: Path | None = None) -> list[Path]:
    """Find the images of a folder and the folders in it.

    Args:
        path (Path): The folder, or one image, whatever its suffix.
        exclude (Path | None, optional): A folder that is passed over. Defaults to ``None``.

    Returns:
        list[Path]: The images, sorted.
    """
    if path.is_file():
        return [path]
    return [file for file in _files(path, exclude) if file.suffix.lower() in IMAGE_SUFFIXES]


def describe_skipped(path: Path, exclude: Path | None = None) -> list[str]:
    """Tell which images :func:`find_images` passes over, because they are of a kind that is not read.

    Args:
        path (Path): The folder, or one photograph.
        exclude (Path | None, optional): A folder that is passed over. Defaults to ``None``.

    Returns:
        list[str]: A line for each image. Other files have none.
    """
    return [
        f"{printable(file)} was skipped: {kind} files are not read. Save it as PNG or JPEG."
        for file in _files(path, exclude)
        if (kind := KIND_OF_SUFFIX.get(file.suffix.lower()))
    ]


def _files(folder: Path, exclude: Path | None) -> list[Path]:
    excluded = exclude and exclude.resolve()
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and excluded not in file.resolve().parents]
