"""Reads data files: decompresses them, and rejects files that are not data, by their first bytes."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from ....benchmark.core.errors import KnbenchError

GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
PARQUET = b"PAR1"
TABLE_SUFFIXES = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet", *TABLE_SUFFIXES, ".txt")
"""Endings of data files, in lower case. Each text file may also end in ``.gz``."""

# The first bytes of files that are not readable data, with the description and the fix. UTF-32 comes before UTF-16,
# because the byte-order mark of the little-endian form begins with that of UTF-16.
UNREADABLE = (
    (b"version https://git-lfs", "a Git LFS pointer, not the data; run 'git lfs pull' or download the file itself"),
    (b"\xff\xfe\x00\x00", "UTF-32 text; convert it to UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text; convert it to UTF-8"),
    (b"\xff\xfe", "UTF-16 text; convert it to UTF-8"),
    (b"\xfe\xff", "UTF-16 text; convert it to UTF-8"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook; unpack it, or save it as CSV"),
    (GZIP, "compressed twice with gzip; unpack it"),
    (b"BZh", "compressed with bzip2; unpack it"),
    (b"\xfd7zXZ", "compressed with xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; unpack it"),
    (PARQUET, "a Parquet file; give it the ending .parquet"),
    (b"\x89HDF", "an HDF5 file; convert it to JSON"),
)


def data_suffix(path: Path) -> str:
    """Return the ending of a data file in lower case, without ``.gz``; an empty string if it is none of SUFFIXES.

    >>> data_suffix(Path("zsre.JSON.gz")), data_suffix(Path("zsre.pdf"))
    ('.json', '')
    """
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    return suffix if suffix in SUFFIXES else ""


def read_data(path: Path) -> bytes:
    """Return the decompressed bytes of a text file, without a byte-order mark.

    Raises:
        KnbenchError: the file cannot be read, is empty, is cut, or is not UTF-8 text of data.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KnbenchError(f"{path}: cannot read the file: {error.strerror}") from None
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error):
            raise KnbenchError(f"{path}: the gzip file is cut or damaged; download the file again") from None
    check_content(str(path), content)
    return content.removeprefix(BOM)


def check_parquet(path: Path) -> None:
    """Check the first and last bytes of a Parquet file.

    Raises:
        KnbenchError: the file cannot be read, is another format, or is cut.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KnbenchError(f"{path}: cannot read the file: {error.strerror}") from None
    if not content.startswith(PARQUET):
        check_content(str(path), content)
        raise KnbenchError(f"{path}: not a Parquet file; give it the ending of its format")
    if not content.endswith(PARQUET):
        raise KnbenchError(f"{path}: the Parquet file is cut; download the file again")


def check_content(source: str, content: bytes) -> None:
    """Check by the first bytes that a content is text of data.

    Raises:
        KnbenchError: the content is empty, another format, or another encoding; the message names it.
    """
    for magic, description in UNREADABLE:
        if content.startswith(magic):
            raise KnbenchError(f"{source}: the file is {description}")
    start = content.removeprefix(BOM).lstrip()[:64].lower()
    if not start:
        raise KnbenchError(f"{source}: the file is empty; download the file again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise KnbenchError(f"{source}: the file is a web page, not the data; download the raw file")
    if b"\x00" in content[:4]:
        raise KnbenchError(
            f"{source}: the file is UTF-16 or binary data without a byte-order mark; convert it to UTF-8"
        )
