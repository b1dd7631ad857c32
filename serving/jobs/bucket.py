"""Blob store in an S3 bucket, or in a bucket of an S3-compatible server.

The only module that imports boto3; it is loaded only where a bucket is set. Blobs of up to one
part are sent by `put_object`, longer ones by multipart upload, so at most one part is in memory;
an object that exists is complete. Buckets with versioning are refused: they keep deleted objects.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from serving.errors import JobGone, NotReady, StorageFull
from serving.jobs.store import CHUNK_BYTES, PresignedUrls, WrittenBlob, checked
from serving.threads import in_thread
from superres.common.errors import SharplineError

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Discard = Callable[[dict[str, Any]], object]

PART_BYTES = 8 << 20  # S3 takes at most 10,000 parts of at least 5 MiB
MAX_PRESIGN_SECONDS = 7 * 86_400
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 30, 3
MAX_CONNECTIONS = 16
DEFAULT_REGION = "us-east-1"  # for S3-compatible servers, which have no regions
MAX_DELETED = 1000  # objects per request
NOT_FOUND_CODES = frozenset({"NoSuchKey", "NotFound", "404", "NoSuchUpload"})
STORAGE_FULL_CODES = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507"})
UPLOAD_SEPARATOR = "?"  # between a blob's name and the id of its unfinished multipart upload


class BucketStore:
    """Blobs as objects `prefix/blob`; a `serving.jobs.store.Store` and its `PresignedUrls`."""

    def __init__(self, location: str, endpoint: str | None, *, direct: bool) -> None:
        """`location` is `bucket` or `bucket/prefix`. Raises SharplineError if it is unusable."""
        self._bucket, _, prefix = location.partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._presigned_allowed = direct
        self._s3: Any = _client(endpoint)
        self._require_usable()

    @property
    def presigned_urls(self) -> PresignedUrls | None:
        return self if self._presigned_allowed else None

    async def write(self, blob: str, chunks: AsyncIterator[bytes]) -> WrittenBlob:
        digest, count, part = hashlib.sha256(), 0, bytearray()
        writer = _MultipartWriter(self, checked(blob))
        try:
            async for chunk in chunks:
                digest.update(chunk)
                count += len(chunk)
                part += chunk
                while len(part) > PART_BYTES:
                    await writer.add(bytes(part[:PART_BYTES]))
                    del part[:PART_BYTES]
            await writer.finish(bytes(part))
        except BaseException:
            await asyncio.shield(writer.abort())
            raise
        return WrittenBlob(count, digest.hexdigest())

    async def read(self, blob: str) -> AsyncGenerator[bytes]:
        response = await self.request(
            "get_object",
            discard=lambda response: response["Body"].close(),
            Key=self.key(checked(blob)),
        )
        body = response["Body"]
        try:
            while chunk := await _call_s3(partial(body.read, CHUNK_BYTES)):
                yield chunk
        finally:
            body.close()

    async def delete(self, blobs: list[str]) -> None:
        unfinished = [blob for blob in blobs if UPLOAD_SEPARATOR in blob]
        for each in unfinished:
            blob, _, upload = each.partition(UPLOAD_SEPARATOR)
            await self.abort(blob, upload)
        objects = [{"Key": self.key(blob)} for blob in blobs if UPLOAD_SEPARATOR not in blob]
        for start in range(0, len(objects), MAX_DELETED):
            batch = {"Objects": objects[start : start + MAX_DELETED], "Quiet": True}
            response = await self.request("delete_objects", Delete=batch)
            for error in response.get("Errors", ()):
                raise NotReady(f"the bucket did not delete a picture ({error.get('Code')})")

    async def change_markers(self) -> dict[str, str]:
        change_markers: dict[str, str] = {}
        for page in await self._pages("list_objects_v2", Prefix=self._prefix):
            for entry in page.get("Contents", ()):
                change_markers[self._blob(entry["Key"])] = (
                    f"{entry['LastModified']}-{entry['Size']}"
                )
        for page in await self._pages("list_multipart_uploads", Prefix=self._prefix):
            for entry in page.get("Uploads", ()):
                key, upload = entry["Key"], entry["UploadId"]
                parts = await self.request("list_parts", Key=key, UploadId=upload)
                sizes = [part["Size"] for part in parts.get("Parts", ())]
                change_markers[f"{self._blob(key)}{UPLOAD_SEPARATOR}{upload}"] = (
                    f"{len(sizes)}-{sum(sizes)}"
                )
        return change_markers

    def put_url(self, blob: str, seconds: float) -> str:
        return self._presigned("put_object", seconds, Key=self.key(checked(blob)))

    def get_url(self, blob: str, seconds: float, headers: Mapping[str, str]) -> str:
        return self._presigned(
            "get_object",
            seconds,
            Key=self.key(checked(blob)),
            ResponseContentType=headers.get("Content-Type", "application/octet-stream"),
            ResponseContentDisposition=headers.get("Content-Disposition", "attachment"),
            ResponseCacheControl="no-store",
        )

    async def move(self, blob: str, new: str) -> int | None:
        key = self.key(checked(blob))
        try:
            head = await self.request("head_object", Key=key)
            source = {"Bucket": self._bucket, "Key": key}
            await self.request(
                "copy_object",
                Key=self.key(checked(new)),
                CopySource=source,
                CopySourceIfMatch=head["ETag"],  # fails if the client has overwritten the object
            )
        except JobGone:
            return None
        await self.delete([blob])
        return head["ContentLength"]

    def key(self, blob: str) -> str:
        """The key of a blob's object."""
        return self._prefix + blob

    async def request(
        self, operation: str, *, discard: Discard | None = None, **parameters: Any
    ) -> dict[str, Any]:
        """Call S3. Raises JobGone, StorageFull or NotReady.

        A response that arrives after the caller was cancelled is passed to `discard`.
        """
        call = getattr(self._s3, operation)
        return await _call_s3(partial(call, Bucket=self._bucket, **parameters), discard)

    async def abort(self, blob: str, upload: str) -> None:
        """Abort a multipart upload, which removes its parts."""
        try:
            await self.request("abort_multipart_upload", Key=self.key(blob), UploadId=upload)
        except JobGone:
            return

    def _blob(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    async def _pages(self, operation: str, **parameters: Any) -> list[dict[str, Any]]:
        pages = self._s3.get_paginator(operation).paginate(Bucket=self._bucket, **parameters)
        return await _call_s3(lambda: list(pages))

    def _presigned(self, operation: str, seconds: float, **parameters: Any) -> str:
        return self._s3.generate_presigned_url(
            operation,
            Params={"Bucket": self._bucket, **parameters},
            ExpiresIn=max(1, min(int(seconds), MAX_PRESIGN_SECONDS)),
        )

    def _require_usable(self) -> None:
        try:
            self._s3.head_bucket(Bucket=self._bucket)
            versions = self._s3.get_bucket_versioning(Bucket=self._bucket).get("Status")
        except (BotoCoreError, ClientError) as error:
            raise SharplineError(f"the bucket {self._bucket} cannot be used: {error}") from error
        if versions is not None:
            raise SharplineError(
                f"the bucket {self._bucket} has versioning ({versions}), so deleted pictures would "
                "be kept; use another bucket"
            )


class _MultipartWriter:
    """Writes one blob, by `put_object` or as a multipart upload."""

    def __init__(self, store: BucketStore, blob: str) -> None:
        self._store = store
        self._blob = blob
        self._upload: str | None = None
        self._completed: list[dict[str, Any]] = []

    async def add(self, part: bytes) -> None:
        """Send one part; the first one creates the upload."""
        if self._upload is None:
            started = await self._store.request(
                "create_multipart_upload", discard=self._set_upload, **self._key
            )
            self._set_upload(started)
        number = len(self._completed) + 1
        response = await self._store.request(
            "upload_part", **self._key, UploadId=self._upload, PartNumber=number, Body=part
        )
        self._completed.append({"PartNumber": number, "ETag": response["ETag"]})

    def _set_upload(self, started: dict[str, Any]) -> None:
        """Also called when the writer was cancelled meanwhile, so that `abort` finds the upload."""
        self._upload = started["UploadId"]

    async def finish(self, rest: bytes) -> None:
        """Send the rest and complete the object."""
        if self._upload is None:
            await self._store.request("put_object", **self._key, Body=rest)
            return
        await self.add(rest)
        completed = {"Parts": self._completed}
        await self._store.request(
            "complete_multipart_upload",
            **self._key,
            UploadId=self._upload,
            MultipartUpload=completed,
        )

    async def abort(self) -> None:
        """Remove the unfinished blob; if the bucket is unreachable, a sweep removes it later."""
        try:
            if self._upload is None:
                await self._store.delete([self._blob])
            else:
                await self._store.abort(self._blob, self._upload)
        except NotReady as error:
            log.warning("could not remove an unfinished picture from the bucket yet: %s", error)

    @property
    def _key(self) -> dict[str, Any]:
        return {"Key": self._store.key(self._blob)}


async def _call_s3(
    call: Callable[[], Result], discard: Callable[[Result], object] | None = None
) -> Result:
    """Run a boto3 call on a worker thread and translate its errors."""
    try:
        return await in_thread(call, discard=discard)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in NOT_FOUND_CODES:
            raise JobGone("the picture was deleted") from error
        if code in STORAGE_FULL_CODES:
            raise StorageFull("there is no space left for this picture") from error
        log.error("the bucket refused a request: %s", error)
        raise NotReady("the picture bucket refused a request; see the server's log") from error
    except BotoCoreError as error:
        raise NotReady("the picture bucket cannot be reached") from error


def _client(endpoint: str | None) -> Any:
    session = Session()
    region = session.region_name or (DEFAULT_REGION if endpoint else None)
    config = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=MAX_CONNECTIONS,
        # S3-compatible servers may not support virtual-hosted addresses and checksums.
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise SharplineError(f"S3 cannot be used: {error}") from error
