"""The content-addressed artifact store: a folder, or any S3-compatible bucket. One protocol, one conformance test.

Bytes are written before the row that names them, and are durable when ``put`` returns. Who may read them is decided by
rows in Postgres, never here: knowing a hash gives no access.

A folder looks like this; everything in it may be copied with rsync::

    blobs/ab/cd/abcd…    a file under its SHA-256
    manifests/NAME       what became of a run (deployments/worker.py), until the scheduler has it
    tmp/                 what is being written; leftovers of a crash are swept by the garbage collection
    locks/ab             one lock file for all hashes that begin with ab
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from tessera.errors import NotFound, StorageFull, Unavailable
from tessera.ports import ArtifactPort

log = structlog.get_logger(__name__)

PIECE_BYTES = 256 << 10  # of a stream: one disk read in a thread, 0.1 ms beside 0.2 ms for handing it over
TOUCH_S = 12 * 3600  # an object older than this is written anew when it is put again, so that no collection takes it
MIN_AGE = timedelta(days=1)  # a blob is written before its row: younger ones may be about to be referenced
LEFTOVER_S = 86_400.0

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA256_IN_BYTES = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MANIFEST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG})
_BROKEN = frozenset({errno.EIO, errno.ENOTDIR, errno.EEXIST, errno.ESTALE, errno.EMFILE, errno.ENFILE})  # as unusable

Referenced = Callable[[Sequence[str]], Awaitable[set[str]]]


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a garbage collection has found and done."""

    seen: int
    deleted: int
    freed_bytes: int


class ArtifactStore(ArtifactPort, Protocol):
    """What the ingress and maintenance need beyond ``ArtifactPort``. Every method is safe to repeat.

    A store that cannot be reached at all raises Unavailable.
    """

    async def put_file(self, path: Path) -> str:
        """Like ``put``, for a file on disk that need not fit into memory. The file stays where it is."""
        ...

    async def size(self, sha256: str) -> int | None:
        """Bytes of a stored file, None when there is none."""
        ...

    async def read_range(self, sha256: str, start: int, end: int) -> bytes:
        """The bytes from ``start`` up to, not including, ``end``. Raises NotFound."""
        ...

    def stream(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """The same in pieces; raises NotFound before the first one."""
        ...

    async def manifests(self) -> Sequence[str]:
        """The names of all manifests."""
        ...

    async def check(self) -> None:
        """Raises StorageFull or Unavailable when a ``put`` could not succeed now."""
        ...

    def free_mib(self) -> int | None:
        """What is left on its disk, in MiB; None where there is no telling. It blocks for a moment."""
        ...

    async def collect(self, referenced: Referenced, older_than: timedelta) -> Collected: ...


def open_store(url: str) -> ArtifactStore:
    """The store at an address: a path or ``file:///path``, or ``s3://bucket/prefix?endpoint=…&region=…``.

    Options of S3 come from the query, else from the usual AWS_* variables. Raises ValueError for anything else.
    """
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        path = unquote(parts.path) if parts.scheme else url
        if not path.startswith("/"):
            raise ValueError(f"the artifact store {url!r} needs an absolute path, such as file:///var/lib/tessera")
        return FolderStore(Path(path))
    if parts.scheme == "s3":
        return ObjectStore(url)
    raise ValueError(f"the artifact store {url!r} is of no known kind: use file:///path or s3://bucket/prefix")


async def collect_garbage(store: ArtifactStore, referenced: Referenced, older_than: timedelta = MIN_AGE) -> Collected:
    """Delete the blobs that nothing references and that are older than ``older_than``.

    referenced: of so many hashes, those that rows in Postgres still name (artifacts, thumbnails, uploads, and the files
    of jobs that have not ended). Hashes that stand in a manifest count as well.
    """
    kept: set[str] = set()
    for name in await store.manifests():
        data = await store.get_manifest(name)
        kept.update(match.decode() for match in _SHA256_IN_BYTES.findall(data or b""))

    async def with_manifests(hashes: Sequence[str]) -> set[str]:
        return (await referenced(hashes)) | kept.intersection(hashes)

    collected = await store.collect(with_manifests, older_than)
    log.info("garbage_collected", seen=collected.seen, deleted=collected.deleted, freed_bytes=collected.freed_bytes)
    return collected


def _checked(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise NotFound("There is no such file.")
    return sha256


def _checked_name(name: str) -> str:
    if not _MANIFEST_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a manifest: letters, digits, '.', '_' and '-' only")
    return name


# ------------------------------------------------------------------ a folder


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL | _BROKEN:
            reason = os.strerror(error.errno or 0).lower()
            raise StorageFull(
                f"The result could not be stored ({reason}). Nothing is charged; the operator must make room."
            ) from error
        raise


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderStore:
    """The store in a folder of a local filesystem. File I/O runs in threads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def free_mib(self) -> int | None:
        folder = next((each for each in (self.path, *self.path.parents) if each.exists()), None)
        return shutil.disk_usage(folder).free // 2**20 if folder is not None else None

    async def put(self, data: bytes) -> str:
        return await asyncio.to_thread(self._put, hashlib.sha256(data).hexdigest(), len(data), data)

    async def put_file(self, path: Path) -> str:
        return await asyncio.to_thread(self._put_file, path)

    async def get(self, sha256: str) -> bytes:
        return await asyncio.to_thread(self._read, _checked(sha256), 0, None)

    async def read_range(self, sha256: str, start: int, end: int) -> bytes:
        return await asyncio.to_thread(self._read, _checked(sha256), start, end)

    async def stream(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        file = await asyncio.to_thread(self._open, _checked(sha256))
        try:
            position = start
            while end is None or position < end:
                wanted = PIECE_BYTES if end is None else min(PIECE_BYTES, end - position)
                piece = await asyncio.to_thread(os.pread, file.fileno(), wanted, position)
                if not piece:
                    return
                position += len(piece)
                yield piece
        finally:
            file.close()

    async def size(self, sha256: str) -> int | None:
        return await asyncio.to_thread(self._size, _checked(sha256))

    async def put_manifest(self, name: str, data: bytes) -> None:
        await asyncio.to_thread(self._put_manifest, _checked_name(name), data)

    async def get_manifest(self, name: str) -> bytes | None:
        path = self.path / "manifests" / _checked_name(name)
        return await asyncio.to_thread(lambda: path.read_bytes() if path.is_file() else None)

    async def delete_manifest(self, name: str) -> None:
        path = self.path / "manifests" / _checked_name(name)
        await asyncio.to_thread(lambda: path.unlink(missing_ok=True))

    async def manifests(self) -> Sequence[str]:
        return await asyncio.to_thread(self._manifests)

    async def check(self) -> None:
        await asyncio.to_thread(self._check)

    async def collect(self, referenced: Referenced, older_than: timedelta) -> Collected:
        seen = deleted = freed = 0
        await asyncio.to_thread(self._sweep_leftovers)
        for first in range(256):
            prefix = f"{first:02x}"
            old, found = await asyncio.to_thread(self._older_than, prefix, older_than.total_seconds())
            seen += found
            if not old:
                continue
            kept = await referenced(old)
            for sha256 in old:
                if sha256 in kept:
                    continue
                size = await asyncio.to_thread(self._delete_if_old, sha256, older_than.total_seconds())
                if size is not None:
                    deleted, freed = deleted + 1, freed + size
        return Collected(seen=seen, deleted=deleted, freed_bytes=freed)

    # ---- in threads

    def _blob(self, sha256: str) -> Path:
        return self.path / "blobs" / sha256[:2] / sha256[2:4] / sha256

    @contextlib.contextmanager
    def _lock(self, sha256: str, kind: int) -> Iterator[None]:
        """One lock for all hashes with the same first byte, over all processes: shared by puts, exclusive to delete."""
        folder = self.path / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / sha256[:2]).open("ab") as file:
            fcntl.flock(file, kind)
            yield

    def _put(self, sha256: str, size: int, data: bytes) -> str:
        with _disk_errors(), self._lock(sha256, fcntl.LOCK_SH):
            if not self._touch(sha256, size):
                with self._temporary() as (file, name):
                    file.write(data)
                    self._publish(file, name, self._blob(sha256))
        return sha256

    def _put_file(self, path: Path) -> str:
        with _disk_errors(), path.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            with self._lock(sha256, fcntl.LOCK_SH):
                if not self._touch(sha256, source.tell()):
                    source.seek(0)
                    with self._temporary() as (file, name):
                        while piece := source.read(1 << 20):
                            file.write(piece)
                        self._publish(file, name, self._blob(sha256))
        return sha256

    def _touch(self, sha256: str, size: int) -> bool:
        """Whether the blob is there already, whole; then it is as young as a new one."""
        blob = self._blob(sha256)
        try:
            if blob.stat().st_size != size:
                return False
            os.utime(blob)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[IO[bytes], Path]]:
        folder = self.path / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file, path
        finally:
            path.unlink(missing_ok=True)  # gone by its rename when all went well

    def _publish(self, file: IO[bytes], temporary: Path, final: Path) -> None:
        """Make a written file visible under its name, durably: itself, then the folders that lead to it."""
        file.flush()
        os.fsync(file.fileno())
        new_folders = [folder for folder in final.parents if not folder.exists()]
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(final)
        _fsync_folder(final.parent)
        for folder in new_folders:
            _fsync_folder(folder.parent)

    def _put_manifest(self, name: str, data: bytes) -> None:
        with _disk_errors(), self._temporary() as (file, temporary):
            file.write(data)
            self._publish(file, temporary, self.path / "manifests" / name)

    def _open(self, sha256: str) -> IO[bytes]:
        try:
            return self._blob(sha256).open("rb")
        except FileNotFoundError:
            if not (self.path / "blobs").is_dir():
                log.error("artifact_store_missing", path=str(self.path))
                raise Unavailable(
                    "The files cannot be read at the moment. Nothing is lost; try again shortly."
                ) from None
            raise NotFound("There is no such file.") from None

    def _read(self, sha256: str, start: int, end: int | None) -> bytes:
        with self._open(sha256) as file:
            file.seek(start)
            return file.read() if end is None else file.read(max(0, end - start))

    def _size(self, sha256: str) -> int | None:
        try:
            return self._blob(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def _manifests(self) -> list[str]:
        folder = self.path / "manifests"
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def _check(self) -> None:
        with _disk_errors(), self._temporary() as (file, _):
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())

    def _older_than(self, prefix: str, age_s: float) -> tuple[list[str], int]:
        limit, found, old = time.time() - age_s, 0, []
        folder = self.path / "blobs" / prefix
        for entry in folder.glob("*/*") if folder.is_dir() else ():
            if _SHA256.fullmatch(entry.name):
                found += 1
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < limit:
                        old.append(entry.name)
        return old, found

    def _delete_if_old(self, sha256: str, age_s: float) -> int | None:
        """Delete a blob unless a put has touched it since it was listed; its bytes, or None."""
        blob = self._blob(sha256)
        with self._lock(sha256, fcntl.LOCK_EX):
            try:
                found = blob.stat()
            except FileNotFoundError:
                return None
            if found.st_mtime >= time.time() - age_s:
                return None
            blob.unlink()
            return found.st_size

    def _sweep_leftovers(self) -> None:
        folder = self.path / "tmp"
        for entry in folder.iterdir() if folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < time.time() - LEFTOVER_S:
                    entry.unlink()


# ------------------------------------------------------------------ a bucket


@contextlib.contextmanager
def _bucket_errors(*, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        if isinstance(error, NotFoundError | FileNotFoundError) and not writing:
            raise NotFound("There is no such file.") from None
        log.error("artifact_store_failed", error=type(error).__name__)
        raise Unavailable("The files cannot be reached at the moment. Nothing is lost; try again shortly.") from error


class ObjectStore:
    """The store in a bucket of an S3-compatible service.

    A bucket has no locks: a put of an old blob writes it anew, and a collection looks at a blob's age once more right
    before it deletes it, so that the two can miss each other by milliseconds only, a day after the blob was last put.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options: dict[str, Any] = dict(parse_qsl(parts.query))
        client: dict[str, Any] = {"timeout": "60s", "connect_timeout": "5s"}
        if options.get("endpoint", "").startswith("http://"):
            client["allow_http"] = True
        self._store = S3Store(
            parts.netloc,
            prefix=unquote(parts.path).strip("/") or None,
            config=options,  # type: ignore[arg-type]  # S3Config is a TypedDict of all its names
            client_options=client,  # type: ignore[arg-type]
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
        )

    def free_mib(self) -> int | None:
        return None

    async def put(self, data: bytes) -> str:
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        if not await self._young(sha256, len(data)):
            with _bucket_errors(writing=True):
                await self._store.put_async(_key(sha256), data)
        return sha256

    async def put_file(self, path: Path) -> str:
        def digest() -> tuple[str, int]:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()

        sha256, size = await asyncio.to_thread(digest)
        if not await self._young(sha256, size):
            with _bucket_errors(writing=True):
                await self._store.put_async(_key(sha256), path)
        return sha256

    async def get(self, sha256: str) -> bytes:
        with _bucket_errors():
            found = await self._store.get_async(_key(_checked(sha256)))
            return bytes(await found.bytes_async())

    async def read_range(self, sha256: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        with _bucket_errors():
            return bytes(await self._store.get_range_async(_key(_checked(sha256)), start=start, end=end))

    async def stream(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        with _bucket_errors():
            asked: Any = {"range": (start, end) if end is not None else {"offset": start}} if start or end else None
            found = await self._store.get_async(_key(_checked(sha256)), options=asked)
            async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    async def size(self, sha256: str) -> int | None:
        try:
            with _bucket_errors():
                return int((await self._store.head_async(_key(_checked(sha256))))["size"])
        except NotFound:
            return None

    async def put_manifest(self, name: str, data: bytes) -> None:
        with _bucket_errors(writing=True):
            await self._store.put_async(f"manifests/{_checked_name(name)}", data)

    async def get_manifest(self, name: str) -> bytes | None:
        try:
            with _bucket_errors():
                found = await self._store.get_async(f"manifests/{_checked_name(name)}")
                return bytes(await found.bytes_async())
        except NotFound:
            return None

    async def delete_manifest(self, name: str) -> None:
        with contextlib.suppress(NotFound), _bucket_errors():
            await self._store.delete_async(f"manifests/{_checked_name(name)}")

    async def manifests(self) -> Sequence[str]:
        with _bucket_errors():
            return [item["path"].rpartition("/")[2] async for batch in self._store.list("manifests/") for item in batch]

    async def check(self) -> None:
        with _bucket_errors(writing=True):
            await self._store.put_async("tmp/check", b"ok")

    async def collect(self, referenced: Referenced, older_than: timedelta) -> Collected:
        seen = deleted = freed = 0
        limit = datetime.now(UTC) - older_than
        with _bucket_errors():
            async for batch in self._store.list("blobs/"):
                names = {item["path"].rpartition("/")[2]: item for item in batch}
                seen += len(names)
                old = [n for n, item in names.items() if _SHA256.fullmatch(n) and item["last_modified"] < limit]
                if not old:
                    continue
                kept = await referenced(old)
                for sha256 in old:
                    if sha256 in kept:
                        continue
                    now = await self._store.head_async(_key(sha256))
                    if now["last_modified"] < limit:
                        await self._store.delete_async(_key(sha256))
                        deleted, freed = deleted + 1, freed + int(now["size"])
        return Collected(seen=seen, deleted=deleted, freed_bytes=freed)

    async def _young(self, sha256: str, size: int) -> bool:
        """Whether the blob is there, whole, and too young for any collection."""
        try:
            with _bucket_errors():
                found = await self._store.head_async(_key(sha256))
        except NotFound:
            return False
        age = datetime.now(UTC) - found["last_modified"]
        return bool(found["size"] == size and age.total_seconds() < TOUCH_S)


def _key(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256[2:4]}/{sha256}"
