"""The artifact store: one conformance suite for a folder and for a bucket, and what only a folder can show."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import stat
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from tessera.artifacts import ArtifactStore, FolderStore, ObjectStore, collect_garbage, open_store
from tessera.errors import NotFound, StorageFull, Unavailable

DATA = b"what a picture is made of" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a real S3 server on a loopback socket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/tessera", method="PUT")).close()
    yield f"s3://tessera/files?endpoint={endpoint}&region=us-east-1&access_key_id=a&secret_access_key=b"
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStore]:
    if request.param == "folder":
        yield open_store(f"file://{tmp_path}/artifacts")
    else:
        url = request.getfixturevalue("bucket").replace("/files?", f"/{tmp_path.name}?")
        yield open_store(url)


async def nothing(_: Sequence[str]) -> set[str]:
    return set()


# ------------------------------------------------------------------ both


async def test_what_is_put_is_found_under_its_hash(store: ArtifactStore) -> None:
    assert await store.put(DATA) == SHA256
    assert await store.put(DATA) == SHA256
    assert await store.get(SHA256) == DATA
    assert await store.size(SHA256) == len(DATA)


async def test_an_empty_file_is_a_file(store: ArtifactStore) -> None:
    sha256 = await store.put(b"")
    assert await store.get(sha256) == b""
    assert await store.size(sha256) == 0


async def test_a_file_on_disk_is_put_and_stays(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    assert await store.put_file(path) == SHA256
    assert await store.get(SHA256) == DATA
    assert path.read_bytes() == DATA


async def test_ranges_are_half_open(store: ArtifactStore) -> None:
    await store.put(DATA)
    assert await store.read_range(SHA256, 0, 4) == DATA[:4]
    assert await store.read_range(SHA256, 100, len(DATA) + 50) == DATA[100:]
    assert await store.read_range(SHA256, 7, 7) == b""


async def test_a_stream_gives_all_pieces_in_order(store: ArtifactStore) -> None:
    data = os.urandom(900_000)
    sha256 = await store.put(data)
    assert b"".join([piece async for piece in store.stream(sha256)]) == data
    assert b"".join([piece async for piece in store.stream(sha256, 5, 600_000)]) == data[5:600_000]
    assert b"".join([piece async for piece in store.stream(sha256, 899_990)]) == data[-10:]


async def test_what_is_not_there_is_not_found(store: ArtifactStore) -> None:
    await store.put(b"something else")
    assert await store.size(SHA256) is None
    with pytest.raises(NotFound):
        await store.get(SHA256)
    with pytest.raises(NotFound):
        await store.read_range(SHA256, 0, 1)
    with pytest.raises(NotFound):
        await anext(store.stream(SHA256))


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 65, "0" * 63 + "/"])
async def test_only_hashes_are_looked_up(store: ArtifactStore, name: str) -> None:
    with pytest.raises(NotFound):
        await store.get(name)


async def test_manifests_are_kept_replaced_listed_and_deleted(store: ArtifactStore) -> None:
    assert await store.get_manifest("job-1") is None
    assert await store.manifests() == []
    await store.put_manifest("job-1", b"first")
    await store.put_manifest("job-1", b"second")
    await store.put_manifest("job-2", b"other")
    assert await store.get_manifest("job-1") == b"second"
    assert sorted(await store.manifests()) == ["job-1", "job-2"]
    for _ in range(2):
        await store.delete_manifest("job-1")
    assert await store.get_manifest("job-1") is None


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\x00"])
async def test_a_manifest_cannot_leave_its_folder(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ValueError, match="manifest"):
        await store.put_manifest(name, b"")


async def test_garbage_collection_leaves_what_is_young(store: ArtifactStore) -> None:
    await store.put(DATA)
    collected = await collect_garbage(store, nothing, DAY)
    assert (collected.seen, collected.deleted) == (1, 0)
    assert await store.get(SHA256) == DATA


async def test_garbage_collection_deletes_only_what_nothing_references(store: ArtifactStore) -> None:
    kept, of_manifest = await store.put(b"referenced"), await store.put(b"of a run")
    await store.put(DATA)
    await store.put_manifest("job-1", b'{"sha256": "' + of_manifest.encode() + b'"}')

    async def referenced(hashes: Sequence[str]) -> set[str]:
        return {kept} & set(hashes)

    await asyncio.sleep(1.1)  # a bucket tells times in whole seconds
    collected = await collect_garbage(store, referenced, timedelta(0))
    assert (collected.seen, collected.deleted, collected.freed_bytes) == (3, 1, len(DATA))
    assert await store.size(SHA256) is None
    assert await store.get(kept) == b"referenced"
    assert await store.get(of_manifest) == b"of a run"


async def test_a_healthy_store_says_so(store: ArtifactStore) -> None:
    await store.check()


# ------------------------------------------------------------------ a folder


def blob(root: Path) -> Path:
    return root / "blobs" / SHA256[:2] / SHA256[2:4] / SHA256


async def test_a_blob_of_the_wrong_size_is_written_anew(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    await store.put(DATA)
    blob(tmp_path).write_bytes(b"half of it")
    await store.put(DATA)
    assert await store.get(SHA256) == DATA


async def test_putting_again_makes_a_blob_young(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    await store.put(DATA)
    os.utime(blob(tmp_path), (0, 0))
    await store.put(DATA)
    assert time.time() - blob(tmp_path).stat().st_mtime < 60
    assert (await collect_garbage(store, nothing, DAY)).deleted == 0


async def test_a_put_between_the_listing_and_the_deletion_saves_the_blob(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    await store.put(DATA)
    os.utime(blob(tmp_path), (0, 0))

    async def referenced(_: Sequence[str]) -> set[str]:
        await store.put(DATA)
        return set()

    assert (await collect_garbage(store, referenced, DAY)).deleted == 0
    assert await store.get(SHA256) == DATA


async def test_a_put_in_progress_keeps_the_deletion_of_its_blob_waiting(tmp_path: Path) -> None:
    """A put that has found its blob and not yet made it young, as another process may stand there."""
    store = FolderStore(tmp_path)
    await store.put(DATA)
    os.utime(blob(tmp_path), (0, 0))
    with store._lock(SHA256, fcntl.LOCK_SH):
        collecting = asyncio.create_task(collect_garbage(store, nothing, DAY))
        await asyncio.sleep(0.3)
        assert blob(tmp_path).exists()
        os.utime(blob(tmp_path))
    assert (await collecting).deleted == 0


async def test_a_put_waits_for_a_deletion_and_writes_its_blob_anew(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    await store.put(DATA)
    (tmp_path / "file").write_bytes(DATA)
    for put in (lambda: store.put(DATA), lambda: store.put_file(tmp_path / "file")):
        with store._lock(SHA256, fcntl.LOCK_EX):
            putting = asyncio.create_task(put())
            await asyncio.sleep(0.2)
            assert not putting.done()
            blob(tmp_path).unlink()
        assert await putting == SHA256
        assert await store.get(SHA256) == DATA


async def test_a_collection_spares_what_is_younger_than_a_day_unless_told_otherwise(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for age_s, deleted in ((DAY.total_seconds() - 60, 0), (DAY.total_seconds() + 60, 1)):
        await store.put(DATA)
        os.utime(blob(tmp_path), (time.time() - age_s,) * 2)
        assert (await collect_garbage(store, nothing)).deleted == deleted


async def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut could separate: the calls themselves are seen, for no test can cut the power."""
    seen: list[tuple[str, Path]] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        seen.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        seen.append(("rename", target))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    store = FolderStore(tmp_path)
    (tmp_path / "file").write_bytes(DATA)
    for put, final in (
        (lambda: store.put(DATA), blob(tmp_path)),
        (lambda: store.put_manifest("job-1", b"x"), tmp_path / "manifests" / "job-1"),
        (lambda: store.put_file(tmp_path / "file"), blob(tmp_path)),
    ):
        final.unlink(missing_ok=True)
        seen.clear()
        await put()
        assert [what for what, _ in seen[:3]] == ["fsync", "rename", "fsync"]
        assert [path for _, path in seen[1:3]] == [final, final.parent]
        assert seen[0][1].parent == tmp_path / "tmp"
    # New folders are durable, too, up to the one that was there.
    fresh = FolderStore(tmp_path / "new")
    seen.clear()
    await fresh.put(DATA)
    synced = {path for what, path in seen if what == "fsync"}
    assert {blob(tmp_path / "new").parent, *blob(tmp_path / "new").parents[1:3], tmp_path / "new"} <= synced


async def test_concurrent_puts_of_the_same_bytes_agree(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert set(await asyncio.gather(*(store.put(DATA) for _ in range(20)))) == {SHA256}
    assert await store.get(SHA256) == DATA
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
async def test_a_disk_that_takes_nothing_is_storage_full(tmp_path: Path, number: int) -> None:
    class Failing(FolderStore):
        def _publish(self, *args: Any) -> None:
            raise OSError(number, os.strerror(number))

    store = Failing(tmp_path)
    with pytest.raises(StorageFull, match="must make room"):
        await store.put(DATA)
    with pytest.raises(StorageFull):
        await store.put_manifest("job-1", b"x")
    assert list((tmp_path / "tmp").iterdir()) == [], "what was half written is gone"


async def test_a_full_filesystem_is_storage_full(tmp_path: Path) -> None:
    """/dev/full is the kernel's own full disk."""

    class Full(FolderStore):
        def _publish(self, file: Any, *args: Any) -> None:
            with Path("/dev/full").open("wb", buffering=0) as full:
                full.write(b"x")

    with pytest.raises(StorageFull):
        await Full(tmp_path).put(DATA)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_storage_full(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StorageFull):
        asyncio.run(FolderStore(tmp_path).check())


async def test_a_store_that_is_not_mounted_is_unavailable_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await FolderStore(tmp_path / "nowhere").get(SHA256)


async def test_leftovers_of_a_crash_are_swept_after_a_day(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    await store.put(DATA)
    old, young = tmp_path / "tmp" / "old", tmp_path / "tmp" / "young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (0, 0))
    await collect_garbage(store, nothing, DAY)
    assert not old.exists()
    assert young.exists()


# ------------------------------------------------------------------ a bucket


async def test_a_bucket_that_is_away_is_unavailable(bucket: str) -> None:
    away = ObjectStore(bucket.replace("tessera/files", "no-such-bucket/files"))
    with pytest.raises(Unavailable):
        await away.put(DATA)


def test_an_address_that_names_no_store_is_refused() -> None:
    for url in ("ftp://x/y", "relative/path", "file://relative"):
        with pytest.raises(ValueError, match="artifact store"):
            open_store(url)
