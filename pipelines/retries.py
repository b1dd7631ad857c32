"""What is tried again after a failure: everything but wrong words, sooner at first than later."""

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from pipelines.steps import UsageFailed

_NOT_USAGE_ERROR = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=UsageFailed,
            action=RetryAction.FAIL,
            reason="the command was asked for something that there is not; asking again is no use",
        )
    ]
)

# Each wait is twice the one before, and up to twice that again, so that tasks that failed together
# do not come back together.
RETRIED: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=2),
    "retry_policy": _NOT_USAGE_ERROR,
}
# A download goes on where it broke off, and a network comes back in minutes rather than seconds.
FETCHED: dict[str, Any] = {
    "retries": 6,
    "retry_delay": timedelta(seconds=20),
    "max_retry_delay": timedelta(minutes=15),
}
