"""Uploads in the jobs table: announced, stored, and taken by one job."""

from dataclasses import asdict

import sqlalchemy as sa

from serving.errors import UnknownUpload, UploadGone, UploadMismatch
from serving.jobs.connections import Connections
from serving.jobs.rows import UPLOADS, Upload


class UploadRows(Connections):
    """Uploads that wait for their bytes, or for their job."""

    def add_upload(self, upload: Upload) -> None:
        with self._writing() as connection:
            connection.execute(sa.insert(UPLOADS).values(asdict(upload)))

    def upload(self, upload_id: str) -> Upload | None:
        with self._reading() as connection:
            row = connection.execute(
                sa.select(UPLOADS).where(UPLOADS.c.id == upload_id)
            ).one_or_none()
            return None if row is None else Upload(**row._mapping)

    def upload_stored(self, upload_id: str, blob: str) -> bool:
        """Remember that an upload's bytes are there, in this blob; False where others were first.

        Also for an upload that has gone meanwhile: nothing names the blob then.
        """
        waits = sa.and_(UPLOADS.c.id == upload_id, UPLOADS.c.stored.is_(False))
        with self._writing() as connection:
            kept = sa.update(UPLOADS).where(waits).values(stored=True, blob=blob)
            return connection.execute(kept).rowcount == 1


def taken(connection: sa.Connection, client: str, upload_id: str, now_ms: int) -> str:
    """The blob of an upload, which serves no second job."""
    own = sa.and_(UPLOADS.c.id == upload_id, UPLOADS.c.client == client)
    upload = connection.execute(sa.select(UPLOADS).where(own)).one_or_none()
    if upload is None:
        raise UnknownUpload(f"there is no upload {upload_id!r} of yours, or a job has taken it")
    if upload.expires_ms <= now_ms:
        raise UploadGone(f"upload {upload_id} has expired")
    if not upload.stored:
        raise UploadMismatch(f"the bytes of upload {upload_id} have not arrived")
    if connection.execute(sa.delete(UPLOADS).where(own)).rowcount != 1:
        raise UnknownUpload(f"another job has just taken upload {upload_id}")
    return upload.blob
