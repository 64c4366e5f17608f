"""Recorded exchanges of a MONAI Label server, boiled down to what an answer must have: status, content type, JSON keys.

``python tests/integration/label_recording.py RECORDING.jsonl`` writes them anew beside this file. Files become words (`IMAGE`,
`LABEL`, `RAW`, …), ids of sessions numbers, and of an answer nothing but its outer shape is kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DISTILLED = Path(__file__).parent / "data" / "monai_label_exchanges.json"


def distil(lines: list[str]) -> list[dict[str, Any]]:
    """What is asked and expected, one object for each exchange."""
    sessions: dict[str, str] = {}
    found = []
    for line in lines:
        exchange = json.loads(line)
        body = exchange["response"].get("body") or {}
        known = (body.get("json") or {}).get("session_id") if isinstance(body.get("json"), dict) else None
        if known:
            sessions[known] = f"SESSION{len(sessions)}"
        text = json.dumps({"step": exchange["step"], **_request(exchange["request"]), **_response(exchange["response"])})
        for id, name in sessions.items():
            text = text.replace(id, name)
        found.append(json.loads(text))
    return found


def _request(request: dict[str, Any]) -> dict[str, Any]:
    body = request.get("body") or {}
    asked: dict[str, Any] = {"method": request["method"], "path": request["path"]}
    if request.get("query"):
        asked["query"] = request["query"]
    if request.get("authorization"):
        asked["authorization"] = request["authorization"]
    if "multipart" in body:
        asked["parts"] = [_part(part) for part in body["multipart"]]
    elif "json" in body or "text" in body:
        asked["content_type"] = request.get("content_type")
        asked["body"] = body["text"] if "text" in body else json.dumps(body["json"])
    return asked


def _part(part: dict[str, Any]) -> list[str]:
    fields = dict(field.strip().split("=", 1) for field in part["headers"]["Content-Disposition"].split(";")[1:])
    name, filename = fields["name"].strip('"'), fields.get("filename", "").strip('"')
    if "filename" not in fields:
        return [name, part.get("text", "")]
    return [name, filename, part["text"] if "text" in part else _word(name, filename)]


def _word(name: str, filename: str) -> str:
    if filename.endswith(".bin"):
        return "RAW"
    if "scribbles" in filename:
        return "SCRIBBLES"
    if filename.endswith(".zip"):
        return "ARCHIVE"
    return {"label": "LABEL", "files": "IMAGE", "file": "PATCH" if filename.endswith(".png") else "IMAGE"}[name] if filename else ""


def _response(response: dict[str, Any]) -> dict[str, Any]:
    body = response.get("body") or {}
    expected: dict[str, Any] = {"status": response["status"], "answer": response.get("headers", {}).get("content-type", "").split(";")[0]}
    if isinstance(body.get("json"), dict):
        expected["keys"] = sorted(body["json"])
    elif "json" in body:
        expected["json"] = "list" if isinstance(body["json"], list) else body["json"]
    if "multipart" in body:
        expected["parts_answered"] = [
            part["headers"]["Content-Disposition"].split('name="')[1].split('"')[0] for part in body["multipart"]
        ]  # fmt: skip
    return expected


if __name__ == "__main__":
    exchanges = distil(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())
    DISTILLED.write_text("[\n" + ",\n".join(json.dumps(exchange) for exchange in exchanges) + "\n]\n", encoding="utf-8")
