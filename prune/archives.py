"""Archives: what a zip file holds, after every check that its readers do not make."""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from graph.errors import ModelFileError, first_line

_MAX_RATIO = 20  # torch.save does not compress; other writers gain a factor of 2 or 3
_MAX_GAIN = 4 << 30  # bytes that unpacking may add to what is on disk


def check_zip(path: Path, size: int) -> set[str]:
    """Member names without the archive's own folder, after every check that torch does not make.

    ``torch.load`` compares no checksum: a flipped bit would go through.

    Raises:
        ModelFileError: the archive is broken, encrypted or a bomb, or has members that point outside.
    """
    broken = "copy or download it again"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [m.filename for m in members]
            if len(set(names)) < len(names):
                twice = Counter(names).most_common(1)[0][0]
                raise ModelFileError(f"{path} has two members named {twice!r}", hint="do not use this file")
            for member in members:
                if ".." in re.split(r"[/\\]", member.filename) or member.filename.startswith(("/", "\\")):
                    raise ModelFileError(
                        f"{path} has a member that points outside: {member.filename!r}",
                        hint="do not use this file",
                    )
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ModelFileError(
                        f"{path} is a zip archive, packed in a way that torch does not read",
                        hint="save it with torch.save",
                    )
                if member.flag_bits & 1:
                    raise ModelFileError(f"{path} is encrypted", hint="unpack and save it without a password")
            check_gain(path, size, sum(m.file_size for m in members))
            if (damaged := archive.testzip()) is not None:
                raise ModelFileError(f"{path} is damaged: {damaged} fails its checksum", hint=broken)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as err:
        raise ModelFileError(
            f"{path} is a broken or truncated zip archive: {first_line(err)}", hint=broken
        ) from err
    return {name.partition("/")[2] or name for name in names}


def check_gain(path: Path, size: int, claimed: int) -> None:
    """Refuse a file that claims to hold far more than it has bytes.

    Raises:
        ModelFileError: it does.
    """
    if claimed > size * _MAX_RATIO + (1 << 20) or claimed > size + _MAX_GAIN:
        raise ModelFileError(
            f"{path} has {size:,} bytes but claims to hold {claimed:,}", hint="do not use this file"
        )


def is_tar(head: bytes) -> bool:
    """Whether it is the header of a tar archive, which may begin with any name."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "replace")
    except tarfile.HeaderError:
        return head[257:262] == b"ustar"
    return True
