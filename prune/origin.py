"""Origin: which data the folder of a supernet, or of a subnetwork, names."""

from __future__ import annotations

from pathlib import Path

from prune.files import read_json

SUPERNET_FILE, SUBNET_FILE = "supernet.json", "subnet.json"


def named_data(folder: Path) -> str | None:
    """The data that a supernet, or a subnetwork, was trained on, where its folder says so.

    Raises:
        ModelFileError: the file that says so is broken.
    """
    for name in (SUPERNET_FILE, SUBNET_FILE):
        if (folder / name).is_file():
            origin = read_json(folder / name, "what a supernet is made of").get("origin")
            data = origin.get("data") if isinstance(origin, dict) else None
            return data if isinstance(data, str) else None
    return None
