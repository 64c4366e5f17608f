"""Models as folders: ``NAME/model.toml`` beside the model's files."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from delineate.errors import DelineateError, SettingsError, StoreError
from delineate.model import Model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_RECORD: Final = "model.toml"
_BLOCK: Final = 1 << 20

_Stamps = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model that cannot be used: `path` of its folder or record, and the `reason`."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class FolderModel:
    """A model and where it lies."""

    model: Model
    folder: Path


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one look at all folders gave. A name that is there twice is in `doubled` and nowhere else."""

    models: dict[str, FolderModel]
    doubled: dict[str, tuple[Path, ...]]
    problems: tuple[Problem, ...]


class ModelFolders:
    """The models of some folders; what is dropped in, changed or removed is noticed at the next question.

    Parameters
    ----------
    folders : (folder, source) with source ``builtin`` or ``folder``; one that does not exist holds no model yet.
    """

    def __init__(self, folders: Sequence[tuple[Path, str]]) -> None:
        self._folders = tuple((Path(folder), source) for folder, source in folders)
        self._lock = threading.Lock()
        self._stamps: _Stamps | None = None
        self._found = _Found(models={}, doubled={}, problems=())
        self._digests: dict[Path, tuple[_Stamps, str]] = {}

    def models(self) -> dict[str, FolderModel]:
        """By name, without those whose name is there twice."""
        return dict(self._look().models)

    def get(self, name: str) -> FolderModel | None:
        """One model, None where no folder has it. Raises `SettingsError` when two have it."""
        found = self._look()
        if name in found.doubled:
            # Whoever asks may be a stranger: the folders themselves are named in `problems` alone.
            raise SettingsError(
                f"the model name {name!r} is there more than once, in {len(found.doubled[name])} folders",
                "Rename one of them in its model.toml; the server's log and `delineate doctor --data` name the folders.",
            )
        return found.models.get(name)

    def problems(self) -> list[Problem]:
        """What is in the folders and cannot be used."""
        return list(self._look().problems)

    def digest(self, folder: Path, *, known_only: bool = False) -> str:
        """SHA-256 over names and contents of a model's files; read again when a size or time changed.

        `known_only` does not read: the empty string where it would have to. Raises `StoreError` when a file cannot be read.
        """
        files = sorted(_files(folder))
        try:
            stamps = tuple(_stamp(path) for path in files)
            with self._lock:
                known = self._digests.get(folder)
            if known is not None and known[0] == stamps:
                return known[1]
            if known_only:
                return ""
            digest = _digest_of(folder, files)
        except OSError as error:
            raise StoreError(
                f"the files of the model in {folder} cannot be read: {error.strerror}", "Let the server's user read them."
            ) from error
        with self._lock:
            self._digests[folder] = (stamps, digest)
        return digest

    def _look(self) -> _Found:
        """The stamps of the records, not of their folders: a folder is often there before its record is complete."""
        records = [(path, source) for folder, source in self._folders for path in _records(folder)]
        stamps = tuple(stamp for path, _ in records for stamp in [_stamp_or_none(path)] if stamp is not None)
        with self._lock:
            if stamps != self._stamps:
                self._found, self._stamps = _read_all(records), stamps
            return self._found


def _records(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__")))
    except OSError:
        return []  # not there, or not a folder, yet
    return [folder / name / _RECORD for name in names]


def _stamp(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return (str(path), status.st_mtime_ns, status.st_size)


def _stamp_or_none(path: Path) -> tuple[str, int, int] | None:
    try:
        return _stamp(path)
    except FileNotFoundError:
        return None
    except OSError:
        return (str(path), 0, 0)  # there, and a problem


def _read_all(records: Sequence[tuple[Path, str]]) -> _Found:
    places: dict[str, list[FolderModel]] = {}
    problems: list[Problem] = []
    for path, source in records:
        try:
            model = _read(path, source)
        except FileNotFoundError:
            continue
        except DelineateError as error:
            problems.append(Problem(path=path, reason=error.sentence()))
        except OSError as error:
            problems.append(Problem(path=path, reason=f"it cannot be read: {error.strerror}"))
        except (TypeError, ValueError, AttributeError) as error:  # TOML errors, wrong encoding, values of a wrong type
            problems.append(Problem(path=path, reason=f"it is not a valid {_RECORD}: {error}"))
        else:
            places.setdefault(model.name, []).append(FolderModel(model=model, folder=path.parent))
    doubled = {name: tuple(place.folder for place in found) for name, found in places.items() if len(found) > 1}
    for name, folders in doubled.items():
        problems += [Problem(path=folder, reason=_doubled(name, folders)) for folder in folders]
    models = {name: found[0] for name, found in places.items() if name not in doubled}
    return _Found(models=models, doubled=doubled, problems=tuple(problems))


def _read(path: Path, source: str) -> Model:
    fields: dict[str, Any] = tomllib.loads(path.read_bytes().decode("utf-8"))
    if "name" not in fields or "runner" not in fields:
        raise SettingsError("it lacks a name or a runner", 'Write name = "…" and runner = "python".')
    return replace(Model.from_dict(fields), source=source, digest="")


def _doubled(name: str, places: Sequence[Path]) -> str:
    return f"the model name {name!r} is there more than once: {', '.join(str(place) for place in places)}"


def _files(folder: Path) -> Iterator[Path]:
    for top, names, files in os.walk(folder):
        names[:] = [name for name in names if name != "__pycache__" and not name.startswith(".")]
        yield from (Path(top, name) for name in files if not name.startswith(".") and not name.endswith(".pyc"))


def _digest_of(folder: Path, files: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        one = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                one.update(block)
        whole.update(f"{one.hexdigest()} {path.relative_to(folder).as_posix()}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
