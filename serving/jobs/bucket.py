"""Pictures that wait in a bucket of S3, or of a server that speaks its language.

The one import of boto3, which is loaded where a bucket is set. Blobs of up to one part are sent as
they are, longer ones as parts, so that no more than a part is ever in memory; an object that has
its name is whole. A bucket that keeps versions is refused: what is deleted there is still there.
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

PART_BYTES = 8 << 20  # S3 wants 5 MiB at the least, and at most 10,000 of them
LONGEST_ADDRESS_SECONDS = 7 * 86_400  # of a signature
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 30, 3
MAX_AT_ONCE = 16  # connections
DEFAULT_REGION = "us-east-1"  # of servers that are not AWS's, which have no regions
MAX_DELETED = 1000  # by one request
NOT_THERE = frozenset({"NoSuchKey", "NotFound", "404", "NoSuchUpload"})
NO_ROOM = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507"})
UNFINISHED = "?"  # between a blob and the id of the upload that was to become it


class BucketStore:
    """Blobs as objects `prefix/blob`; a `serving.jobs.store.Store` and its `PresignedUrls`."""

    def __init__(self, address: str, endpoint: str | None, *, direct: bool) -> None:
        """`address` is `bucket` or `bucket/prefix`. Raises SharplineError for one of no use."""
        self._bucket, _, prefix = address.partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._clients_may = direct
        self._s3: Any = _client(endpoint)
        self._require_usable()

    @property
    def direct(self) -> PresignedUrls | None:
        return self if self._clients_may else None

    async def write(self, blob: str, chunks: AsyncIterator[bytes]) -> WrittenBlob:
        digest, count, part = hashlib.sha256(), 0, bytearray()
        parts = _Parts(self, checked(blob))
        try:
            async for chunk in chunks:
                digest.update(chunk)
                count += len(chunk)
                part += chunk
                while len(part) > PART_BYTES:
                    await parts.add(bytes(part[:PART_BYTES]))
                    del part[:PART_BYTES]
            await parts.finish(bytes(part))
        except BaseException:
            await asyncio.shield(parts.drop())
            raise
        return WrittenBlob(count, digest.hexdigest())

    async def read(self, blob: str) -> AsyncGenerator[bytes]:
        answer = await self.ask(
            "get_object", discard=lambda answer: answer["Body"].close(), Key=self.key(checked(blob))
        )
        body = answer["Body"]
        try:
            while chunk := await _told(partial(body.read, CHUNK_BYTES)):
                yield chunk
        finally:
            body.close()

    async def delete(self, blobs: list[str]) -> None:
        unfinished = [blob for blob in blobs if UNFINISHED in blob]
        for each in unfinished:
            blob, _, upload = each.partition(UNFINISHED)
            await self.drop(blob, upload)
        whole = [{"Key": self.key(blob)} for blob in blobs if UNFINISHED not in blob]
        for start in range(0, len(whole), MAX_DELETED):
            some = {"Objects": whole[start : start + MAX_DELETED], "Quiet": True}
            answer = await self.ask("delete_objects", Delete=some)
            for error in answer.get("Errors", ()):
                raise NotReady(f"the bucket did not delete a picture ({error.get('Code')})")

    async def modified_times(self) -> dict[str, str]:
        modified_times: dict[str, str] = {}
        for page in await self._pages("list_objects_v2", Prefix=self._prefix):
            for found in page.get("Contents", ()):
                modified_times[self._blob(found["Key"])] = (
                    f"{found['LastModified']}-{found['Size']}"
                )
        for page in await self._pages("list_multipart_uploads", Prefix=self._prefix):
            for found in page.get("Uploads", ()):
                key, upload = found["Key"], found["UploadId"]
                parts = await self.ask("list_parts", Key=key, UploadId=upload)
                sizes = [part["Size"] for part in parts.get("Parts", ())]
                modified_times[f"{self._blob(key)}{UNFINISHED}{upload}"] = (
                    f"{len(sizes)}-{sum(sizes)}"
                )
        return modified_times

    def put_url(self, blob: str, seconds: float) -> str:
        return self._signed("put_object", seconds, Key=self.key(checked(blob)))

    def get_url(self, blob: str, seconds: float, headers: Mapping[str, str]) -> str:
        return self._signed(
            "get_object",
            seconds,
            Key=self.key(checked(blob)),
            ResponseContentType=headers.get("Content-Type", "application/octet-stream"),
            ResponseContentDisposition=headers.get("Content-Disposition", "attachment"),
            ResponseCacheControl="no-store",
        )

    async def take_over(self, blob: str, new: str) -> int | None:
        key = self.key(checked(blob))
        try:
            found = await self.ask("head_object", Key=key)
            source = {"Bucket": self._bucket, "Key": key}
            await self.ask(
                "copy_object",
                Key=self.key(checked(new)),
                CopySource=source,
                CopySourceIfMatch=found["ETag"],  # what is sent over it meanwhile is not what came
            )
        except JobGone:
            return None
        await self.delete([blob])
        return found["ContentLength"]

    def key(self, blob: str) -> str:
        """The object that a blob is."""
        return self._prefix + blob

    async def ask(
        self, operation: str, *, discard: Discard | None = None, **given: Any
    ) -> dict[str, Any]:
        """One request. Raises JobGone, StorageFull or NotReady.

        An answer that comes after its caller was cancelled goes to `discard`.
        """
        call = getattr(self._s3, operation)
        return await _told(partial(call, Bucket=self._bucket, **given), discard)

    async def drop(self, blob: str, upload: str) -> None:
        """Remove the parts of an upload that came to nothing."""
        try:
            await self.ask("abort_multipart_upload", Key=self.key(blob), UploadId=upload)
        except JobGone:
            return

    def _blob(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    async def _pages(self, operation: str, **given: Any) -> list[dict[str, Any]]:
        pages = self._s3.get_paginator(operation).paginate(Bucket=self._bucket, **given)
        return await _told(lambda: list(pages))

    def _signed(self, operation: str, seconds: float, **given: Any) -> str:
        return self._s3.generate_presigned_url(
            operation,
            Params={"Bucket": self._bucket, **given},
            ExpiresIn=max(1, min(int(seconds), LONGEST_ADDRESS_SECONDS)),
        )

    def _require_usable(self) -> None:
        try:
            self._s3.head_bucket(Bucket=self._bucket)
            versions = self._s3.get_bucket_versioning(Bucket=self._bucket).get("Status")
        except (BotoCoreError, ClientError) as error:
            raise SharplineError(f"the bucket {self._bucket} cannot be used: {error}") from error
        if versions is not None:
            raise SharplineError(
                f"the bucket {self._bucket} keeps versions ({versions}): pictures that are deleted "
                "would still be there; take another"
            )


class _Parts:
    """A blob on its way into the bucket."""

    def __init__(self, store: BucketStore, blob: str) -> None:
        self._store = store
        self._blob = blob
        self._upload: str | None = None
        self._done: list[dict[str, Any]] = []

    async def add(self, part: bytes) -> None:
        """Send one part; the first begins the upload."""
        if self._upload is None:
            begun = await self._store.ask(
                "create_multipart_upload", discard=self._begin, **self._key
            )
            self._begin(begun)
        number = len(self._done) + 1
        answer = await self._store.ask(
            "upload_part", **self._key, UploadId=self._upload, PartNumber=number, Body=part
        )
        self._done.append({"PartNumber": number, "ETag": answer["ETag"]})

    def _begin(self, begun: dict[str, Any]) -> None:
        """Know the upload, also one that began for a writer who was cancelled: `drop` ends it."""
        self._upload = begun["UploadId"]

    async def finish(self, rest: bytes) -> None:
        """Send what is left; the object has its name after that."""
        if self._upload is None:
            await self._store.ask("put_object", **self._key, Body=rest)
            return
        await self.add(rest)
        done = {"Parts": self._done}
        await self._store.ask(
            "complete_multipart_upload", **self._key, UploadId=self._upload, MultipartUpload=done
        )

    async def drop(self) -> None:
        """Leave no part of a blob that came to nothing; what is away now is swept later."""
        try:
            if self._upload is None:
                await self._store.delete([self._blob])
            else:
                await self._store.drop(self._blob, self._upload)
        except NotReady as error:
            log.warning("parts of a picture stay in the bucket for a while: %s", error)

    @property
    def _key(self) -> dict[str, Any]:
        return {"Key": self._store.key(self._blob)}


async def _told(
    call: Callable[[], Result], discard: Callable[[Result], object] | None = None
) -> Result:
    """What boto3 answers, on a thread, with its errors as ours."""
    try:
        return await in_thread(call, discard=discard)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in NOT_THERE:
            raise JobGone("the picture is no longer here") from error
        if code in NO_ROOM:
            raise StorageFull("there is no room for this picture") from error
        log.error("the bucket refused a request: %s", error)
        raise NotReady("the bucket of pictures refused a request; the log says why") from error
    except BotoCoreError as error:
        raise NotReady("the bucket of pictures cannot be reached") from error


def _client(endpoint: str | None) -> Any:
    session = Session()
    region = session.region_name or (DEFAULT_REGION if endpoint else None)
    config = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=MAX_AT_ONCE,
        # What servers other than AWS's may not know.
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise SharplineError(f"S3 cannot be used: {error}") from error
