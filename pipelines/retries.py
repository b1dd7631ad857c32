"""Retry policies: failed tasks retry with exponential backoff, usage errors do not."""

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from pipelines.steps import UsageFailed

_NO_RETRY_ON_USAGE_ERROR = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=UsageFailed,
            action=RetryAction.FAIL,
            reason="usage error: a retry would fail in the same way",
        )
    ]
)

# Airflow doubles each delay and adds jitter of up to the same length, so that tasks that failed
# together do not retry together.
STEP_RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=2),
    "retry_policy": _NO_RETRY_ON_USAGE_ERROR,
}
# A download resumes, and a network outage lasts minutes rather than seconds.
FETCH_RETRIES: dict[str, Any] = {
    "retries": 6,
    "retry_delay": timedelta(seconds=20),
    "max_retry_delay": timedelta(minutes=15),
}
