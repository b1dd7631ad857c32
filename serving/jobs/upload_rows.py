"""Uploads in the jobs database: created, stored, and consumed by one job."""

from dataclasses import asdict

import sqlalchemy as sa

from serving.errors import UnknownUpload, UploadGone, UploadMismatch
from serving.jobs.connections import Connections
from serving.jobs.rows import UPLOADS, Upload


class UploadRows(Connections):
    """Uploads that have no job yet."""

    def add_upload(self, upload: Upload) -> None:
        with self._writing() as connection:
            connection.execute(sa.insert(UPLOADS).values(asdict(upload)))

    def upload(self, upload_id: str) -> Upload | None:
        with self._reading() as connection:
            row = connection.execute(
                sa.select(UPLOADS).where(UPLOADS.c.id == upload_id)
            ).one_or_none()
            return None if row is None else Upload(**row._mapping)

    def mark_stored(self, upload_id: str, blob: str) -> bool:
        """Record that an upload's bytes are in this blob; False if another attempt was first.

        Also False for an upload that was removed meanwhile: no row names the blob then.
        """
        pending = sa.and_(UPLOADS.c.id == upload_id, UPLOADS.c.stored.is_(False))
        with self._writing() as connection:
            update = sa.update(UPLOADS).where(pending).values(stored=True, blob=blob)
            return connection.execute(update).rowcount == 1


def consume_upload(connection: sa.Connection, client: str, upload_id: str, now_ms: int) -> str:
    """Remove an upload and return its blob; it can be used by one job only."""
    own = sa.and_(UPLOADS.c.id == upload_id, UPLOADS.c.client == client)
    upload = connection.execute(sa.select(UPLOADS).where(own)).one_or_none()
    if upload is None:
        raise UnknownUpload(f"there is no upload {upload_id!r} of yours, or a job has used it")
    if upload.expires_ms <= now_ms:
        raise UploadGone(f"upload {upload_id} has expired")
    if not upload.stored:
        raise UploadMismatch(f"the bytes of upload {upload_id} have not arrived")
    if connection.execute(sa.delete(UPLOADS).where(own)).rowcount != 1:
        raise UnknownUpload(f"another job has just used upload {upload_id}")
    return upload.blob
