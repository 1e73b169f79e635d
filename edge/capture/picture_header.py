"""Headers of picture files: format, size and number of frames, read before anything is decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

SIGNATURE_BYTES = 32
# Metadata before the size in a JPEG (EXIF, colour profiles, previews) and directories of a TIFF; more is no picture.
MAX_SEGMENTS = 1000
MAX_PAGES = 1000
# Parts of a file's body that are walked through; a file of more is taken for what it was so far.
MAX_PARTS = 1 << 20
_JPEG_SIZE = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Bytes from a marker without a length to the next one; 0xff is a fill byte.
_JPEG_STEPS = {0xFF: 1} | dict.fromkeys((0x01, *range(0xD0, 0xD9)), 2)
_JPEG_END = b"\xff\xd9"
_JPEG_START = b"\xff\xd8\xff"
# Within coded data a 0xff is followed by 0 or a restart marker; anything else is the next marker.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_HEIF_SIZE = re.compile(rb"\x00\x00\x00\x14ispe\x00\x00\x00\x00(.{8})", re.DOTALL)
_HEIF_META_BYTES = 1 << 20
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_PNM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")
_TIFF_NUMBERS = {3: "H", 4: "I", 16: "Q"}  # by the type of an entry
# A copy that has not finished may have its full length already; coded data does not end in so many zeros.
TAIL_BYTES = 4096


@dataclass(frozen=True)
class PictureHeader:
    """Header of a picture file."""

    format: str  # "JPEG", "PNG" …
    width: int  # pixels, of the largest page
    height: int
    frames: int = 1  # pages, or frames of an animation; at least this many where the file does not count them

    @property
    def mpx(self) -> float:
        """Megapixels."""
        return self.width * self.height / 1e6


class _BadHeaderError(ValueError):
    """The header is cut off or contradicts itself."""


def picture_format(start: bytes) -> str | None:
    """Return the format of a picture by the first bytes of its file; None for any other file."""
    if start[4:8] == b"ftyp":
        if start[8:12] in _AVIF_BRANDS or any(brand in start[16:32] for brand in _AVIF_BRANDS):
            return "AVIF"
        return "HEIC" if start[8:12] in _HEIC_BRANDS else None
    for name, signature in _SIGNATURES:
        if signature.match(start):
            return name
    return None


def read_header(file: BinaryIO) -> PictureHeader | None:
    """Read a picture's header; None where the file is no picture, or its header is cut off or wrong."""
    file.seek(0)
    name = picture_format(file.read(SIGNATURE_BYTES))
    if name is None:
        return None
    try:
        width, height, frames = _READERS[name](_Bytes(file))
    except _BadHeaderError:
        return None
    return PictureHeader(name, width, height, frames) if width > 0 and height > 0 else None


def is_whole(header: PictureHeader, content: bytes) -> bool:
    """Return whether a file has its end, as far as its format shows that: half a picture decodes to half of grey."""
    if header.format == "JPEG":
        return _jpeg_end(content) >= 0
    if header.format == "WebP" and len(content) < int.from_bytes(content[4:8], "little") + 8:
        return False
    return has_end(header, content[-TAIL_BYTES:])


def has_end(header: PictureHeader, tail: bytes) -> bool:
    """Return whether the last bytes of a file end it; those of formats whose decoder reports that always do."""
    if header.format == "JPEG":
        return tail.rfind(_JPEG_END) > tail.rfind(_JPEG_START)
    if header.format == "PNG":
        return b"IEND" in tail
    if header.format == "GIF":
        return tail.rstrip(b"\0").endswith(b";")
    return not (header.format in ("WebP", "AVIF", "JPEG 2000") and tail.endswith(bytes(TAIL_BYTES)))


class _Bytes:
    """Random access to a file whose end raises."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def at(self, offset: int, count: int) -> bytes:
        content = self.up_to(offset, count)
        if len(content) < count:
            raise _BadHeaderError
        return content

    def up_to(self, offset: int, count: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(count)

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack(layout, self.at(offset, struct.calcsize(layout)))


def _png(data: _Bytes) -> tuple[int, int, int]:
    width, height = data.unpack(">II", 16)
    offset, frames = 8, 1
    for _ in range(MAX_SEGMENTS):
        head = data.up_to(offset, 12)
        if head[4:8] == b"acTL":
            frames = int.from_bytes(head[8:], "big")
        if head[4:8] in (b"IDAT", b"acTL", b""):
            break
        offset += int.from_bytes(head[:4], "big") + 12
    return width, height, max(1, frames)


def _jpeg(data: _Bytes) -> tuple[int, int, int]:
    offset = 2
    for _ in range(MAX_SEGMENTS):
        start, marker = data.unpack("BB", offset)
        if start != 0xFF or marker in (0xDA, 0xD9):  # noqa: PLR2004 -- each marker begins so; the size comes first
            break
        if marker in _JPEG_SIZE:
            height, width = data.unpack(">HH", offset + 5)
            return width, height, 1
        offset += _JPEG_STEPS.get(marker) or 2 + data.unpack(">H", offset + 2)[0]
    raise _BadHeaderError


def _jpeg_end(content: bytes) -> int:
    """Return the offset behind the first picture of the content; -1 where it is cut off."""
    offset = 2
    for _ in range(MAX_PARTS):
        if not 0 <= offset < len(content) - 1 or content[offset] != 0xFF:  # noqa: PLR2004 -- each marker begins so
            break
        marker = content[offset + 1]
        if marker == 0xD9:  # noqa: PLR2004 -- end of the picture
            return offset + 2
        offset += _JPEG_STEPS.get(marker) or 2 + int.from_bytes(content[offset + 2 : offset + 4], "big")
        if marker == 0xDA:  # noqa: PLR2004 -- coded data follows
            found = _JPEG_MARKER.search(content, offset)
            offset = found.start() if found else -1
    return -1


def is_motion_jpeg(content: bytes) -> bool:
    """Return whether another picture follows at once: Motion JPEG, not a phone's picture with a depth map behind it."""
    end = _jpeg_end(content)
    return end >= 0 and content.startswith(_JPEG_START, end) and b"MPF\0" not in content[:end]


def _webp(data: _Bytes) -> tuple[int, int, int]:
    kind = data.at(12, 4)
    if kind == b"VP8X":
        flags = data.at(20, 1)[0]
        sides = data.at(24, 6)
        width, height = int.from_bytes(sides[:3], "little") + 1, int.from_bytes(sides[3:], "little") + 1
        return width, height, _webp_frames(data) if flags & 2 else 1
    if kind == b"VP8L":
        (bits,) = data.unpack("<I", 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1
    width, height = data.unpack("<HH", 26)
    return width & 0x3FFF, height & 0x3FFF, 1


def _webp_frames(data: _Bytes) -> int:
    end, offset, frames = data.unpack("<I", 4)[0] + 8, 12, 0
    for _ in range(MAX_PARTS):
        head = data.up_to(offset, 8)
        if offset + 8 > end or len(head) < 8:  # noqa: PLR2004 -- name and length
            break
        frames += head[:4] == b"ANMF"
        length = int.from_bytes(head[4:], "little")
        offset += 8 + length + length % 2
    return max(1, frames)


def _gif(data: _Bytes) -> tuple[int, int, int]:
    width, height, flags = data.unpack("<HHB", 6)
    offset, frames, parts = 13 + _gif_colours(flags), 0, 0
    while (head := data.up_to(offset, 10)) and parts < MAX_PARTS:
        if head[0] == 0x2C:  # noqa: PLR2004 -- a frame
            frames += 1
            if frames > 1:  # FFmpeg counts them
                break
            offset += 11 + _gif_colours(head[9]) if len(head) > 9 else len(head)  # noqa: PLR2004 -- its flags
        elif head[0] == 0x21:  # noqa: PLR2004 -- an extension
            offset += 2
        else:
            break
        while (length := (data.up_to(offset, 1) or b"\0")[0]) and parts < MAX_PARTS:
            offset += 1 + length
            parts += 1
        offset += 1
        parts += 1
    return width, height, max(1, frames)


def _gif_colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _bmp(data: _Bytes) -> tuple[int, int, int]:
    (head_bytes,) = data.unpack("<I", 14)
    width, height = data.unpack("<HH", 18) if head_bytes == 12 else data.unpack("<ii", 18)  # noqa: PLR2004 -- OS/2
    return width, abs(height), 1


def _tiff(data: _Bytes) -> tuple[int, int, int]:
    order = "<" if data.at(0, 2) == b"II" else ">"
    big = data.unpack(order + "H", 2) == (43,)
    count, entry, pointer = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    (offset,) = data.unpack(order + pointer, 8 if big else 4)
    width = height = pages = 0
    while offset and pages < MAX_PAGES:
        (entries,) = data.unpack(order + count, offset)
        offset += struct.calcsize(order + count)
        if entries > MAX_SEGMENTS:
            raise _BadHeaderError
        sides = {256: 0, 257: 0}
        for number in range(entries):
            at = offset + number * struct.calcsize(order + entry)
            tag, kind = data.unpack(order + "HH", at)
            if tag in sides:
                (sides[tag],) = data.unpack(order + _TIFF_NUMBERS.get(kind, "I"), at + (12 if big else 8))
        pages += 1
        if sides[256] * sides[257] > width * height:
            width, height = sides[256], sides[257]
        (offset,) = data.unpack(order + pointer, offset + entries * struct.calcsize(order + entry))
    return width, height, max(1, pages)


def _heif(data: _Bytes) -> tuple[int, int, int]:
    sizes = [struct.unpack(">II", found[1]) for found in _HEIF_SIZE.finditer(data.up_to(0, _HEIF_META_BYTES))]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return width, height, 2 if data.at(8, 4) == b"avis" else 1


def _jpeg_2000(data: _Bytes) -> tuple[int, int, int]:
    start = data.up_to(0, 4096)
    if (place := start.find(b"ihdr")) >= 0:
        height, width = data.unpack(">II", place + 4)
        return width, height, 1
    right, bottom, left, top = data.unpack(">IIII", start.find(b"\xff\x51") + 6)
    return right - left, bottom - top, 1


def _pnm(data: _Bytes) -> tuple[int, int, int]:
    found = _PNM.match(data.up_to(0, 4096))
    if found is None:
        raise _BadHeaderError
    return int(found[1]), int(found[2]), 1


_SIGNATURES = [
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("WebP", re.compile(rb"RIFF.{4}WEBPVP8", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("BMP", re.compile(rb"BM.{4}\0\0\0\0.{4}[\x0c-\x7c]\0\0\0", re.DOTALL)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    ("PNM", re.compile(rb"P[1-6][\s#]")),
]
_READERS: dict[str, Callable[[_Bytes], tuple[int, int, int]]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WebP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "AVIF": _heif,
    "HEIC": _heif,
    "JPEG 2000": _jpeg_2000,
    "PNM": _pnm,
}
