"""A mirror of contours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate import nifti
from delineate.runners.base import Job
from delineate.segmentation import Segmentation


class Exported:
    def __init__(self, parameters: Mapping[str, Any], folder: Path | None) -> None:
        pass

    def segment(self, job: Job) -> Segmentation:
        masks = {}
        for path in sorted(job.input_folder.glob("*.json")):
            about = json.loads(path.read_text(encoding="ascii"))
            if "multiplier" in about:
                labels, geometry = nifti.read_labels(path.with_name(path.name[: -len(".json")] + ".nii.gz"))
                masks[about["name"]] = labels > 0
        return Segmentation.from_masks(masks, geometry)
