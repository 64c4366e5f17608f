"""Archives of strangers: what is refused, with which words, and that nothing is left behind."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from delineate.errors import ArchiveError, ArchiveLimitError
from delineate.protocols.archive import ArchiveReader, Limits

FILES = {"tmp_0000.nii.gz": b"image" * 400, "meta.json": b"{}", "sub/empty.txt": b""}


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w", format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=format) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_of(path: Path, *infos: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in infos:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def forge_zip(
    path: Path,
    entries: Iterable[tuple[bytes, bytes]],
    *,
    flags: int = 0,
    method: int = 0,
    attributes: int = 0,
    edit: Callable[[bytes], bytes] = lambda raw: raw,
    directory: Callable[[list[bytes]], list[bytes]] = lambda records: records,
) -> Path:
    """A zip written by hand, so that it may lie."""
    body, records = b"", []
    for name, data in entries:
        size = len(data)
        crc = zlib.crc32(data)
        records.append(
            struct.pack(
                "<4s6H3L5H2L", b"PK\x01\x02", 0x314, 20, flags, method, 0, 33, crc, size, size, len(name), 0, 0, 0, 0, attributes, len(body)
            )
            + name
        )
        body += struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, flags, method, 0, 33, crc, size, size, len(name), 0) + name + data
    records = directory(records)
    central = b"".join(records)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, len(records), len(records), len(central), len(body), 0)
    path.write_bytes(edit(body + central + end))
    return path


def untouched(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


def refused(path: Path, folder: Path, limits: Limits | None = None) -> ArchiveError:
    """Listing and extracting are both refused alike, and extraction leaves nothing."""
    with pytest.raises(ArchiveError) as extracted:
        ArchiveReader(path, limits).extract(folder)
    assert untouched(folder)
    with pytest.raises(ArchiveError) as listed:
        ArchiveReader(path, limits).names()
    assert type(listed.value) is type(extracted.value)
    return extracted.value


def containers(folder: Path, files: dict[str, bytes]) -> list[Path]:
    return [
        make_zip(folder / "stored.zip", files),
        make_zip(folder / "deflated.zip", files, zipfile.ZIP_DEFLATED),
        make_tar(folder / "pax.tar", files),
        make_tar(folder / "gnu.tar", files, format=tarfile.GNU_FORMAT),
        make_tar(folder / "pax.tar.gz", files, "w:gz"),
    ]


def test_every_container_is_told_by_its_content_and_read(tmp_path: Path) -> None:
    kinds = []
    for path in containers(tmp_path, FILES):
        disguised = path.rename(path.with_suffix(".dat"))
        with ArchiveReader(disguised) as reader:
            kinds.append(reader.kind)
            assert reader.names() == list(FILES)
            assert {name: reader.read(name) for name in FILES} == FILES
            assert {name: stream.read() for name, stream in reader.files()} == FILES
            with reader.open("tmp_0000.nii.gz") as stream:
                assert stream.read(7) == b"imageim"
        disguised.unlink()
    assert kinds == ["zip", "zip", "tar", "tar", "tar.gz"]


def test_extraction_keeps_contents_and_folders_and_gives_no_rights_away(tmp_path: Path) -> None:
    for number, path in enumerate(containers(tmp_path, {**FILES, "run.sh": b"#!/bin/sh"})):
        folder = tmp_path / f"out{number}"
        names = ArchiveReader(path).extract(folder)
        assert names == [*FILES, "run.sh"]
        assert all((folder / name).read_bytes() == data for name, data in FILES.items())
        assert {stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*") if p.is_file()} == {0o600}
        assert {stat.S_IMODE(p.stat().st_mode) for p in [folder, folder / "sub"]} == {0o700}


def test_extraction_lists_on_the_way(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar.gz", FILES, "w:gz")
    reader = ArchiveReader(path)
    assert reader.extract(tmp_path / "out") == list(FILES)
    path.unlink()
    assert reader.names() == list(FILES)


def test_folders_and_dots_of_ordinary_tars(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "a.txt").write_text("a")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(source, arcname=".")
    reader = ArchiveReader(tmp_path / "a.tar")
    assert reader.names() == ["deep/er/a.txt"]
    reader.extract(tmp_path / "out")
    assert (tmp_path / "out/deep/er/a.txt").read_text() == "a"


def test_long_and_foreign_names(tmp_path: Path) -> None:
    name = "/".join(["Ordner mit Umlaut äöü 頭"] * 6) + "/" + "x" * 200
    for path in containers(tmp_path, {name: b"1"}):
        assert ArchiveReader(path).extract(tmp_path / f"out-{path.name}") == [name]


def test_zip_entries_written_to_a_pipe_have_their_sizes_behind_them(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        pipe = Pipe()
        with zipfile.ZipFile(pipe, "w", method) as archive:
            for name, data in FILES.items():
                archive.writestr(name, data)
        path = tmp_path / f"{method}.zip"
        path.write_bytes(pipe.getvalue())
        assert path.read_bytes()[6] & 0x08
        assert {n: s.read() for n, s in ArchiveReader(path).files()} == FILES


def test_zip64(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.bin", "w", force_zip64=True) as entry:
        entry.write(b"large")
    assert ArchiveReader(path).read("a.bin") == b"large"


def test_what_a_macintosh_adds_is_not_there(tmp_path: Path) -> None:
    junk = {"__MACOSX/._tmp_0000.nii.gz": b"x", "._meta.json": b"x", "d/.DS_Store": b"x"}
    for path in containers(tmp_path, {**junk, **FILES}):
        reader = ArchiveReader(path)
        assert reader.names() == list(FILES)
        assert ArchiveReader(path).extract(tmp_path / path.name.replace(".", "_")) == list(FILES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/etc/passwd", "absolute"),
        ("//server/share", "absolute"),
        ("C:/autoexec.bat", "absolute"),
        ("c:x", "absolute"),
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a/..", "leads out"),
        ("a\\..\\x", "backslash"),
        ("a\nb", "control"),
        ("a\x1b[2Jb", "control"),
        ("a\x7fb", "control"),
        ("a\x85b", "control"),
        (".", "no name"),
        ("...", "dot"),
        ("a. ", "dot or a blank"),
        ("dir /x", "dot or a blank"),
        ("x" * 256, "longer"),
        ("é" * 128, "longer"),
        ("a/" * 40 + "b", "deep"),
        ("__MACOSX/../../x", "leads out"),
    ],
)
def test_unsafe_names_are_refused_by_name(tmp_path: Path, name: str, words: str) -> None:
    folder = tmp_path / "sub" / "out"
    for path in containers(tmp_path, {"good.txt": b"1", name: b"2"}):
        error = refused(path, folder, None)
        assert words in error.message
        assert not isinstance(error, ArchiveLimitError)
        assert error.message.isprintable()
    made = {"stored.zip", "deflated.zip", "pax.tar", "gnu.tar", "pax.tar.gz"}
    assert {p.name for p in tmp_path.iterdir()} - {"sub"} == made
    assert untouched(tmp_path / "sub")


def test_names_with_nul_and_undecodable_bytes(tmp_path: Path) -> None:
    assert "control" in refused(forge_zip(tmp_path / "a.zip", [(b"a\0b", b"1")]), tmp_path / "out").message
    refused(forge_zip(tmp_path / "b.zip", [(b"", b"1")]), tmp_path / "out")
    refused(forge_zip(tmp_path / "c.zip", [(b"\xff\xfe", b"1")], flags=0x800), tmp_path / "out")
    path = make_tar(tmp_path / "a.tar", {"aXb": b"1"})
    raw = path.read_bytes().replace(b"aXb", b"a\xffb", 1)
    header = bytearray(raw[:512])
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    path.write_bytes(bytes(header) + raw[512:])
    assert "UTF-8" in refused(path, tmp_path / "out").message


@pytest.mark.parametrize(
    "names",
    [
        ("a", "a"),
        ("a", "A"),
        ("straße", "STRASSE"),
        ("é", "e\u0301"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("d/x", "D/y"),
        ("a/./b", "a/b"),
        ("a", "./a"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    zipped = tmp_path / "a.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in names:
            archive.writestr(name, b"1")
    tarred = tar_of(tmp_path / "a.tar", *((tarfile.TarInfo(name), b"1") for name in names))
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(tarred.read_bytes()))
    for path in (zipped, tarred, packed):
        message = refused(path, tmp_path / "out").message
        assert "is there twice" in message or "one name where case does not count" in message


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (b"Z", "unknown"),
    ],
)
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes, words: str) -> None:
    info = tarfile.TarInfo("bad")
    info.type, info.linkname = kind, "/etc/passwd"
    path = tar_of(tmp_path / "a.tar", (tarfile.TarInfo("good"), b"1"), (info, b""))
    error = refused(path, tmp_path / "out")
    assert words in error.message and "'bad'" in error.message


def test_a_file_whose_name_is_a_folder_s_in_a_tar(tmp_path: Path) -> None:
    """Python's tarfile reads a file; who takes it for an empty folder reads its content as further entries."""
    hidden = tarfile.TarInfo("hidden")
    content = hidden.tobuf(tarfile.USTAR_FORMAT)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.size = len(content)
        info.pax_headers = {"path": "a/"}
        archive.addfile(info, io.BytesIO(content))
    assert "folder with content" in refused(path, tmp_path / "out").message


def test_sparse_files_in_a_tar(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("s")
    sparse.type = tarfile.GNUTYPE_SPARSE
    assert "sparse" in refused(tar_of(tmp_path / "a.tar", (sparse, b"")), tmp_path / "out").message
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("s")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "99999999999"}
        archive.addfile(info)
    assert "sparse" in refused(tmp_path / "b.tar", tmp_path / "out").message


@pytest.mark.parametrize(("kind", "words"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "a device"), (stat.S_IFCHR, "a device")])
def test_links_and_devices_in_a_zip(tmp_path: Path, kind: int, words: str) -> None:
    path = forge_zip(tmp_path / "a.zip", [(b"bad", b"/etc/passwd")], attributes=(kind | 0o777) << 16)
    assert words in refused(path, tmp_path / "out").message


def test_encrypted_and_strange_methods(tmp_path: Path) -> None:
    assert "encrypted" in refused(forge_zip(tmp_path / "a.zip", [(b"a", b"1")], flags=1), tmp_path / "out").message
    assert "AES" in refused(forge_zip(tmp_path / "b.zip", [(b"a", b"1")], method=99), tmp_path / "out").message
    for method, words in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")):
        path = make_zip(tmp_path / f"{method}.zip", {"a": b"1" * 100}, method)
        assert words in refused(path, tmp_path / "out").message


def test_two_directory_entries_for_the_same_bytes(tmp_path: Path) -> None:
    def quote(records: list[bytes]) -> list[bytes]:
        """A second name for the first entry's data: unpacked twice, sent once."""
        return [*records, records[0][:46] + b"b"]

    path = forge_zip(tmp_path / "a.zip", [(b"a", b"1" * 1000)], directory=quote)
    assert "another one" in refused(path, tmp_path / "out").message

    inner = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, zlib.crc32(b"x"), 1, 1, 1, 0) + b"b" + b"x"

    def nest(records: list[bytes]) -> list[bytes]:
        """A second entry whose header and data are inside the first one's."""
        record = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 0x314, 20, 0, 0, 0, 33, zlib.crc32(b"x"), 1, 1, 1, 0, 0, 0, 0, 0, 31) + b"b"
        return [*records, record]

    path = forge_zip(tmp_path / "b.zip", [(b"a", inner)], directory=nest)
    assert "overlaps" in refused(path, tmp_path / "out").message


def test_a_local_header_that_tells_another_story(tmp_path: Path) -> None:
    def rename(raw: bytes) -> bytes:
        return raw.replace(b"goodname", b"evilname", 1)

    assert "another one" in refused(forge_zip(tmp_path / "a.zip", [(b"goodname", b"1")], edit=rename), tmp_path / "out").message


def test_damaged_contents_are_found_while_extracting(tmp_path: Path) -> None:
    data = os.urandom(5000)
    for path in (
        make_zip(tmp_path / "a.zip", {"first": b"1", "second": data}),
        make_zip(tmp_path / "b.zip", {"first": b"1", "second": data}, zipfile.ZIP_DEFLATED),
        make_tar(tmp_path / "c.tar.gz", {"first": b"1", "second": data}, "w:gz"),
    ):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        path.write_bytes(raw)
        with pytest.raises(ArchiveError, match=r"damaged|cut off"):
            ArchiveReader(path).extract(tmp_path / "out")
        assert untouched(tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"not an archive" * 100, "neither zip nor tar"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        (b"PK\x03\x04", "cut off"),
        (b"\x1f\x8b", "cut off"),
        (gzip.compress(b"no tar in it" * 100, mtime=0), "damaged"),
        (gzip.compress(b"", mtime=0), "cut off"),
        (gzip.compress((348).to_bytes(4, "little") + bytes(400), mtime=0), "is a NIfTI image"),
        (gzip.compress((540).to_bytes(4, "big") + bytes(600), mtime=0), "is a NIfTI image"),
        (b"<html>login</html>", "neither"),
    ],
)
def test_what_is_no_archive(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=words):
        ArchiveReader(path).names()


def test_empty_archives_have_no_names(tmp_path: Path) -> None:
    for path in containers(tmp_path, {}):
        assert ArchiveReader(path).names() == []


def test_missing_entries_and_large_ones(tmp_path: Path) -> None:
    reader = ArchiveReader(make_zip(tmp_path / "a.zip", FILES))
    with pytest.raises(ArchiveError, match="no file 'nothing'"):
        reader.open("nothing")
    with pytest.raises(ArchiveLimitError, match="larger than 10 bytes"):
        reader.read("tmp_0000.nii.gz", most=10)
    assert reader.read("tmp_0000.nii.gz", most=2000) == FILES["tmp_0000.nii.gz"]


# ---- limits


def test_each_limit_is_named(tmp_path: Path) -> None:
    files = {f"f{number}": bytes(1000) for number in range(10)}
    for path in containers(tmp_path, files):
        for limits, name in (
            (Limits(entries=9), "entries"),
            (Limits(entry_bytes=999), "entry_bytes"),
            (Limits(total_bytes=9999), "total_bytes"),
            (Limits(ratio=0.05, ratio_from=4000), "ratio"),
        ):
            error = refused(path, tmp_path / "out", limits)
            assert isinstance(error, ArchiveLimitError) and f"limit: {name}" in error.message, (path, error.message)
        assert len(ArchiveReader(path, Limits(entries=10, entry_bytes=1000, total_bytes=10000)).names()) == 10


def test_an_empty_mask_is_no_bomb_but_a_bomb_is(tmp_path: Path) -> None:
    mask = tmp_path / "mask.zip"
    with zipfile.ZipFile(mask, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("mask.nii", bytes(80 << 20))
    assert mask.stat().st_size * 210 < 80 << 20
    assert ArchiveReader(mask).names() == ["mask.nii"]
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(4):
            archive.writestr(f"mask{number}.nii", bytes(80 << 20))
    assert "limit: ratio" in refused(bomb, tmp_path / "out").message


class Endless(io.RawIOBase):
    """Zeros without end, to make a large compressed file quickly."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def test_a_gzip_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for number in range(10):
            info = tarfile.TarInfo(f"f{number}")
            info.size = 8 << 20
            archive.addfile(info, Endless())  # type: ignore[arg-type]
    limits = Limits(ratio=100, ratio_from=20 << 20)
    reached: list[int] = []
    reader = ArchiveReader(path, limits)
    with pytest.raises(ArchiveLimitError, match="ratio"):
        for _, stream in reader.files():
            stream.finish()
            reached.append(stream.entry.size)
    assert sum(reached) <= max(20 << 20, 100 * path.stat().st_size)
    refused(path, tmp_path / "out", limits)


def test_a_gzip_bomb_of_headers_and_of_padding(tmp_path: Path) -> None:
    """What is around the entries counts too: nothing unpacks without end."""
    header = tarfile.TarInfo("x")
    header.type = tarfile.XGLTYPE
    header.size = 1 << 19
    record = b"524288 comment=" + b"x" * (524288 - 16) + b"\n"
    heads = tmp_path / "heads.tar.gz"
    heads.write_bytes(gzip.compress((header.tobuf() + record) * 8 + header.tobuf() + record + bytes(1024), 1))
    assert "extended headers" in refused(heads, tmp_path / "out").message
    header.size = 1 << 40
    huge = tmp_path / "huge.tar"
    huge.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    assert "extended header" in refused(huge, tmp_path / "out").message
    padded = tmp_path / "padded.tar.gz"
    padded.write_bytes(gzip.compress(make_tar(tmp_path / "a.tar", FILES).read_bytes() + bytes(64 << 20), 1))
    assert "goes on after its end" in refused(padded, tmp_path / "out").message


def test_a_huge_zip_directory_is_not_read(tmp_path: Path) -> None:
    count = 60_000
    record = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    central = record * count
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(central), 0, 0)
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\x03\x04" + bytes(26) + central + end)
    tracemalloc.start()
    try:
        error = refused(path, tmp_path / "out", Limits(entries=100))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert "limit: entries" in error.message


def test_a_gzip_bomb_between_the_entries(tmp_path: Path) -> None:
    """Extended headers of a megabyte before small files: more than the entries may ever need."""
    record = b"1048576 comment=" + b"x" * (1048576 - 17) + b"\n"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    raw = b"".join(header.tobuf() + record + tarfile.TarInfo(f"f{number}").tobuf() for number in range(60))
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(raw + bytes(1024), 1))
    assert len(ArchiveReader(path).names()) == 60
    assert "limit: ratio" in refused(path, tmp_path / "out", Limits(entries=100, ratio=1, ratio_from=4 << 20)).message


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.DIRTYPE])
@pytest.mark.parametrize(
    ("size", "words"),
    [
        (b"-0000001000\0", "no sensible size"),
        (b"\xff" * 10 + b"\xfe\x00", "no sensible size"),
        (b"77777777777\0", "cut off|larger|limit"),
        (b"abcdefghijk\0", "neither zip nor tar"),
    ],
)
def test_absurd_sizes_in_a_tar_header(tmp_path: Path, kind: bytes, size: bytes, words: str) -> None:
    raw = bytearray(make_tar(tmp_path / "a.tar", FILES).read_bytes())
    raw[124:136] = size
    raw[156:157] = kind
    raw[148:156] = b"%06o\0 " % (sum(raw[:512]) - sum(raw[148:156]) + 8 * 32)
    path = tmp_path / "b.tar"
    path.write_bytes(raw)
    if kind == tarfile.DIRTYPE and size.startswith(b"7"):
        words = "damaged"  # a folder's size is not looked at, so that its content is taken for the next header
    assert re.search(words, refused(path, tmp_path / "out").message)


@pytest.mark.parametrize(
    "record", [b"20 size=-5\n", b"99 path=x\n", b"x path=y\n", b"9 path=x", b"0 path=x\n", b"10 size=1e9\n", b"12 nothing\n"]
)
def test_broken_pax_records(tmp_path: Path, record: bytes) -> None:
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    header.size = len(record)
    path = tmp_path / "a.tar"
    path.write_bytes(header.tobuf() + record.ljust(512, b"\0") + make_tar(tmp_path / "b.tar", FILES).read_bytes())
    assert refused(path, tmp_path / "out").message
    assert not list((tmp_path / "out").glob("**/*"))


def test_pax_names_and_sizes_hold(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    record = b"17 path=real.txt\n" + b"9 size=3\n" + b"20 comment=anything\n"
    header.size = len(record)
    path = tmp_path / "a.tar"
    path.write_bytes(header.tobuf() + record.ljust(512, b"\0") + tarfile.TarInfo("short").tobuf() + b"abc".ljust(512, b"\0") + bytes(1024))
    reader = ArchiveReader(path)
    assert reader.read("real.txt") == b"abc"
    with tarfile.open(path) as archive:
        assert archive.getnames() == reader.names()


# ---- failures on the way


def test_what_is_in_the_folder_already_is_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "sub").symlink_to(outside)
    path = make_zip(tmp_path / "a.zip", FILES)
    with pytest.raises(FileExistsError):
        ArchiveReader(path).extract(folder)
    assert [p.name for p in folder.iterdir()] == ["sub"] and not list(outside.iterdir())
    (folder / "sub").unlink()
    (folder / "meta.json").write_text("mine")
    with pytest.raises(FileExistsError):
        ArchiveReader(path).extract(folder)
    assert (folder / "meta.json").read_text() == "mine" and len(list(folder.iterdir())) == 1


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from delineate.protocols import archive_reader

    def full(file: io.RawIOBase, view: memoryview) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive_reader, "_write_all", full)
    with pytest.raises(OSError, match="No space"):
        ArchiveReader(make_zip(tmp_path / "a.zip", FILES)).extract(tmp_path / "new" / "out")
    assert not (tmp_path / "new" / "out").exists()


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_memory_stays_constant(tmp_path: Path, suffix: str) -> None:
    """200 MB in one entry, stored in a zip or tar; 100 MB of them deflated in a tar.gz."""
    path = tmp_path / f"a.{suffix}"
    block = os.urandom(1 << 20)
    size = 200 << 20 if suffix != "tar.gz" else 60 << 20
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive, archive.open("big.bin", "w") as entry:
            for _ in range(size >> 20):
                entry.write(block)
    else:
        info = tarfile.TarInfo("big.bin")
        info.size = size
        with open(path, "wb") as file:
            out = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=0) if suffix == "tar.gz" else file
            out.write(info.tobuf())
            for _ in range(size >> 20):
                out.write(block)
            out.write(bytes(1024))
            if out is not file:
                out.close()
    tracemalloc.start()
    try:
        ArchiveReader(path).extract(tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out" / "big.bin").stat().st_size == size
    assert peak < 12 << 20
