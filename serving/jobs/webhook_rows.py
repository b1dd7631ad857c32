"""Webhooks in the jobs table: which deliveries are due."""

import sqlalchemy as sa

from serving.jobs.connections import Connections
from serving.jobs.rows import JOBS, Job, job_of


class WebhookRows(Connections):
    """Deliveries that are due, each given to one replica at a time."""

    def due_webhooks(self, hold_ms: int, most: int = 16) -> list[Job]:
        """Jobs whose webhook is due; nobody else gets them for `hold_ms`."""
        now_ms = self.now_ms()
        due = (
            sa.select(JOBS.c.id)
            .where(JOBS.c.webhook_due_ms <= now_ms)
            .order_by(JOBS.c.webhook_due_ms)
            .limit(most)
        )
        with self._reading() as connection:
            if connection.execute(due).first() is None:
                return []
        with self._writing() as connection:
            ids = list(connection.execute(due.with_for_update(skip_locked=True)).scalars())
            chosen = JOBS.c.id.in_(ids)
            connection.execute(
                sa.update(JOBS)
                .where(chosen)
                .values(
                    webhook_due_ms=now_ms + hold_ms, webhook_attempts=JOBS.c.webhook_attempts + 1
                )
            )
            return [job_of(row) for row in connection.execute(sa.select(JOBS).where(chosen))]

    def webhook_settled(self, job_id: str, *, again_ms: int | None = None) -> None:
        """A delivery is over: for good, or until `again_ms`."""
        with self._writing() as connection:
            told = sa.and_(JOBS.c.id == job_id, JOBS.c.webhook_due_ms.is_not(None))
            connection.execute(sa.update(JOBS).where(told).values(webhook_due_ms=again_ms))
