"""Uploaded pictures: what is accepted, and their thumbnails."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from werkzeug.datastructures import FileStorage

FORMATS = ("JPEG", "PNG", "WEBP")
LARGEST = 40_000_000  # pixels: a small file can contain a picture that fills the memory
THUMBNAIL = (480, 480)


class InvalidPicture(Exception):
    """The uploaded file is no picture that the guestbook accepts."""


def open_picture(source: io.BytesIO | Path) -> Image.Image:
    """Open a picture. Its pixels are not read yet.

    Raises:
        InvalidPicture: when it has another format, or is too large.
    """
    try:
        picture = Image.open(source, formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise InvalidPicture("The picture must be a JPEG, PNG or WebP file.") from error
    if picture.width * picture.height > LARGEST:
        raise InvalidPicture("The picture is too large.")
    return picture


def read_picture(upload: FileStorage | None) -> bytes:
    """The content of an uploaded picture; empty when none was chosen.

    Raises:
        InvalidPicture: when the guestbook does not accept it.
    """
    content = upload.read() if upload and upload.filename else b""
    if content:
        open_picture(io.BytesIO(content))
    return content


def write_thumbnail(source: Path, target: Path) -> None:
    """Make the thumbnail of a picture. It has none of the metadata, such as the place where a photo was taken.

    Raises:
        InvalidPicture: when the picture is damaged.
    """
    picture = open_picture(source)
    try:
        picture.load()
    except (OSError, SyntaxError) as error:
        raise InvalidPicture("The picture is damaged.") from error
    picture = ImageOps.exif_transpose(picture)
    picture.thumbnail(THUMBNAIL)
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    temporary = target.with_name(f".{target.name}.new")
    picture.convert(mode).save(temporary, "WEBP")
    temporary.replace(target)
