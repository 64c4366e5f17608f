"""Infer over real sockets and workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Start = Callable[..., Any]


def test_an_image_of_the_datastore_is_inferred(label_server: Start) -> None:
    server = label_server("ct.nii.gz", workers=1)
    answer = server.http.post("/infer/threshold", params={"image": "ct"}, files={"params": (None, "{}")})
    print(answer.headers, answer.content[:1500])
    assert answer.status_code == 200, answer.text
