"""Names of structures beside a label map: ``NAME.json`` with ``{"1": "Heart"}``, as `delineate.files` reads and writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_BARE = (".nii.gz", ".nii", ".nrrd", ".mha")  # label maps that hold no names
_OWN = (".seg.nrrd",)


def with_names(params: dict[str, Any], file: Path) -> dict[str, Any]:
    """The parameters of a label, with the names of the table beside its file unless they say some themselves."""
    table = _table(file)
    if table is None or "label_info" in params or "label_names" in params or not (names := _read(table)):
        return params
    return {**params, "label_info": [{"name": name, "idx": label} for label, name in sorted(names.items())]}


def write_names(file: Path, names: Any) -> Path | None:
    """Write the names, labels by name, beside a label map: where to; None where there is nothing to write, or another file already."""
    table = _table(file)
    found = {label: name for name, label in names.items() if type(label) is int and label > 0} if isinstance(names, dict) else {}
    if table is None or not found or (table.exists() and not _read(table)):
        return None
    table.write_text(json.dumps({str(label): found[label] for label in sorted(found)}, ensure_ascii=False) + "\n", encoding="utf-8")
    return table


def _table(file: Path) -> Path | None:
    name = file.name.lower()
    if name.endswith(_OWN):
        return None
    return next((file.with_name(file.name[: -len(suffix)] + ".json") for suffix in _BARE if name.endswith(suffix)), None)


def _read(table: Path) -> dict[int, str]:
    """The names by label; empty where the file is none, such as the parameters of a scanner beside an image."""
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict) or not all(label.isdecimal() and isinstance(name, str) for label, name in content.items()):
        return {}
    return {int(label): name for label, name in content.items() if int(label) > 0 and name.strip()}
