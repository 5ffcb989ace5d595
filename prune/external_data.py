"""External data: the files beside an ONNX file that hold its weights, and no others.

A model from elsewhere could name any file of this machine as its weights and so give it away with its
outputs. onnxruntime itself followed a hard link.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from graph.errors import ModelFileError


def plain_file(folder: Path, location: str) -> Path:
    """The file that an ONNX file in a folder names.

    Raises:
        ModelFileError: it is anything but a plain file within the folder.
    """
    try:
        reason = _reason(folder, location)
    except (OSError, ValueError):  # too long a name, a zero in it
        reason = "is no file name"
    if not reason:
        return folder / location
    raise ModelFileError(
        f"the external data {location[:200]!r} of the ONNX file {reason}",
        hint="put the weights as a plain file beside the model, if you trust it",
    )


def _reason(folder: Path, location: str) -> str:
    name = PurePosixPath(location)
    file = folder / name
    steps = [folder.joinpath(*name.parts[: i + 1]) for i in range(len(name.parts))]
    if not name.parts or name.is_absolute() or ".." in name.parts:
        return "is outside its folder"
    if "*" in location:  # onnxruntime takes "*/_ORT_MEM_ADDR_/*" for an address in memory
        return "is no file name"
    if any(step.is_symlink() for step in steps):
        return "is a link"
    if not file.is_file():
        return "is missing or no file"
    return "is a hard link" if file.stat().st_nlink > 1 else ""
