"""Uploads: a picture announced, sent to this server or straight to the bucket, checked, kept."""

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
    """Pictures between their announcement and their job; used on the event loop."""

    def __init__(
        self, database: Database, store: Store, signer: Signer, settings: JobSettings
    ) -> None:
        self._db = database
        self._table = database.table
        self._store = store
        self._signer = signer
        self._settings = settings

    async def create(self, client: str, size: int, sha256: str | None) -> tuple[Upload, str]:
        """A new upload, and the address that its bytes go to; without a host it is one of ours."""
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
        direct = self._store.direct
        if direct is not None:
            return upload, direct.put_url(upload.blob, self._settings.upload_seconds)
        signature = self._signer.sign("upload", f"{upload.id}:{upload.expires_ms}")
        return upload, f"/v1/uploads/{upload.id}?ends={upload.expires_ms}&signature={signature}"

    def url_is_valid(self, upload_id: str, ends: int, signature: str) -> bool:
        """Whether `create` has made this address."""
        return self._signer.verify("upload", f"{upload_id}:{ends}", signature)

    async def waiting(self, upload_id: str) -> Upload:
        """An upload that waits for its bytes. Raises UnknownUpload, UploadGone."""
        upload = await self._db(self._table.upload, upload_id)
        if upload is None:
            raise UnknownUpload(f"there is no upload {upload_id[:64]!r}")
        if upload.expires_ms <= self._table.now_ms():
            raise UploadGone("the upload has expired")
        if upload.stored:
            raise UploadGone("the upload's bytes have arrived already")
        return upload

    async def keep(self, upload: Upload, chunks: AsyncIterator[bytes]) -> None:
        """Take an upload's bytes. Raises UploadMismatch where they are not those announced.

        A client whose line broke sends again while its first try still hangs here: each try has a
        blob of its own, and the first that is whole is kept.
        """
        blob = new_blob()
        written = await self._store.write(blob, chunks)
        await self._settle(upload, blob, written)

    async def fetch_sent(self, client: str, upload_ids: list[str]) -> None:
        """Take over what clients have sent straight to the bucket. Raises UploadMismatch.

        Others' uploads, and those that are not there, are left for the job's entry to refuse.
        """
        direct = self._store.direct
        if direct is None:
            return
        for upload_id in upload_ids:
            upload = await self._db(self._table.upload, upload_id)
            if upload is None or upload.client != client or upload.stored:
                continue
            blob = new_blob()
            size = await direct.take_over(upload.blob, blob)
            if size is None:
                continue
            sha256 = upload.sha256
            if sha256 is not None and size == upload.bytes:
                sha256 = await self._sha256(blob)
            await self._settle(upload, blob, WrittenBlob(size, sha256 or ""))

    async def _settle(self, upload: Upload, blob: str, written: WrittenBlob) -> None:
        """Keep the blob where it is what was announced, and nobody else was first."""
        fault = None
        if written.bytes != upload.bytes:
            fault = f"{upload.bytes:,} bytes were announced, {written.bytes:,} came"
        elif upload.sha256 is not None and written.sha256 != upload.sha256:
            fault = f"the SHA-256 of what came is {written.sha256}"
        if fault is None and await self._db(self._table.upload_stored, upload.id, blob):
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
