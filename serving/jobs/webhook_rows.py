"""Webhooks in the jobs database: which deliveries are due."""

import sqlalchemy as sa

from serving.jobs.connections import Connections
from serving.jobs.rows import JOBS, Job, job_of


class WebhookRows(Connections):
    """Webhook deliveries, each leased to one replica at a time."""

    def due_webhooks(self, lease_ms: int, limit: int = 16) -> list[Job]:
        """Jobs whose webhook is due; other replicas do not get them for `lease_ms`."""
        now_ms = self.now_ms()
        due = (
            sa.select(JOBS.c.id)
            .where(JOBS.c.webhook_due_ms <= now_ms)
            .order_by(JOBS.c.webhook_due_ms)
            .limit(limit)
        )
        with self._reading() as connection:
            if connection.execute(due).first() is None:
                return []
        with self._writing() as connection:
            ids = list(connection.execute(due.with_for_update(skip_locked=True)).scalars())
            leased = JOBS.c.id.in_(ids)
            connection.execute(
                sa.update(JOBS)
                .where(leased)
                .values(
                    webhook_due_ms=now_ms + lease_ms, webhook_attempts=JOBS.c.webhook_attempts + 1
                )
            )
            return [job_of(row) for row in connection.execute(sa.select(JOBS).where(leased))]

    def webhook_settled(self, job_id: str, *, retry_at_ms: int | None = None) -> None:
        """End a delivery; retry it at `retry_at_ms`, or never."""
        with self._writing() as connection:
            pending = sa.and_(JOBS.c.id == job_id, JOBS.c.webhook_due_ms.is_not(None))
            connection.execute(sa.update(JOBS).where(pending).values(webhook_due_ms=retry_at_ms))
