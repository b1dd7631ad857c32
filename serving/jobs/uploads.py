"""Uploads: pictures sent to this server or directly to the bucket, and verified, for later jobs."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing

from serving.errors import UnknownUpload, UploadGone, UploadMismatch
from serving.jobs.database import Database
from serving.jobs.rows import Upload, new_id
from serving.jobs.store import Store, WrittenBlob, new_blob
from serving.requests.signing import Signer
from serving.setting_groups import JobSettings


class Uploads:
    """Creates, receives and verifies uploads; used on the event loop."""

    def __init__(
        self, database: Database, store: Store, signer: Signer, settings: JobSettings
    ) -> None:
        self._db = database
        self._table = database.table
        self._store = store
        self._signer = signer
        self._settings = settings

    async def create(self, client: str, size: int, sha256: str | None) -> tuple[Upload, str]:
        """A new upload and the signed URL for its bytes; a URL without a host is this server's."""
        now_ms = self._table.now_ms()
        upload = Upload(
            id=new_id(now_ms),
            client=client,
            blob=new_blob(),
            bytes=size,
            sha256=sha256,
            expires_ms=now_ms + int(self._settings.upload_seconds * 1000),
            stored=False,
        )
        await self._db(self._table.add_upload, upload)
        presigned_urls = self._store.presigned_urls
        if presigned_urls is not None:
            return upload, presigned_urls.put_url(upload.blob, self._settings.upload_seconds)
        signature = self._signer.sign("upload", f"{upload.id}:{upload.expires_ms}")
        return upload, f"/v1/uploads/{upload.id}?expires={upload.expires_ms}&signature={signature}"

    def url_is_valid(self, upload_id: str, expires_ms: int, signature: str) -> bool:
        """Whether `create` signed this URL."""
        return self._signer.verify("upload", f"{upload_id}:{expires_ms}", signature)

    async def pending(self, upload_id: str) -> Upload:
        """An upload whose bytes have not arrived. Raises UnknownUpload, UploadGone."""
        upload = await self._db(self._table.upload, upload_id)
        if upload is None:
            raise UnknownUpload(f"there is no upload {upload_id[:64]!r}")
        if upload.expires_ms <= self._table.now_ms():
            raise UploadGone("the upload has expired")
        if upload.stored:
            raise UploadGone("the upload's bytes have arrived already")
        return upload

    async def receive(self, upload: Upload, chunks: AsyncIterator[bytes]) -> None:
        """Store an upload's bytes. Raises UploadMismatch if they are not those declared.

        A client may retry while its first attempt still hangs here: each attempt writes a blob of
        its own, and the first complete one is kept.
        """
        blob = new_blob()
        written = await self._store.write(blob, chunks)
        await self._accept(upload, blob, written)

    async def claim_direct_uploads(self, client: str, upload_ids: list[str]) -> None:
        """Verify uploads that were sent directly to the bucket. Raises UploadMismatch.

        Other clients' uploads and missing ones are skipped; `JobTable.add` refuses them.
        """
        presigned_urls = self._store.presigned_urls
        if presigned_urls is None:
            return
        for upload_id in upload_ids:
            upload = await self._db(self._table.upload, upload_id)
            if upload is None or upload.client != client or upload.stored:
                continue
            blob = new_blob()
            size = await presigned_urls.move(upload.blob, blob)
            if size is None:
                continue
            sha256 = upload.sha256
            if sha256 is not None and size == upload.bytes:
                sha256 = await self._sha256(blob)
            await self._accept(upload, blob, WrittenBlob(size, sha256 or ""))

    async def _accept(self, upload: Upload, blob: str, written: WrittenBlob) -> None:
        """Keep the blob if it is what was declared and no other attempt was first."""
        fault = None
        if written.bytes != upload.bytes:
            fault = f"{upload.bytes:,} bytes were declared, {written.bytes:,} received"
        elif upload.sha256 is not None and written.sha256 != upload.sha256:
            fault = f"the SHA-256 of the received bytes is {written.sha256}"
        if fault is None and await self._db(self._table.mark_stored, upload.id, blob):
            return
        await self._store.delete([blob])
        if fault is not None:
            raise UploadMismatch(fault)

    async def _sha256(self, blob: str) -> str:
        digest = hashlib.sha256()
        async with aclosing(self._store.read(blob)) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
        return digest.hexdigest()
