"""The sync and the async client, over httpx."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import httpx

from sharpline.client.types import (
    RETRY_STATUSES,
    Enhanced,
    EnhanceOptions,
    Job,
    RetryPolicy,
    ServerUnavailable,
    refusal_of,
)

URL = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 300.0
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 30.0  # long polling: the server holds one request for a job so long


class _Attempts:
    """Decides after each attempt whether to retry, and after how long."""

    def __init__(self, retry_policy: RetryPolicy, url: str) -> None:
        self._retry_policy = retry_policy
        self._url = url
        self._attempt = 0

    def after_response(self, response: httpx.Response) -> float | None:
        """Seconds until the next attempt; None on success. Raises RequestRefused."""
        if response.is_success:
            return None
        self._attempt += 1
        if response.status_code in RETRY_STATUSES:
            retry_after = response.headers.get("Retry-After")
            pause_seconds = self._retry_policy.pause_seconds(self._attempt, retry_after)
            if pause_seconds is not None:
                return pause_seconds
        raise refusal_of(response)

    def after_error(self, error: httpx.TransportError) -> float:
        """Seconds until the next attempt. Raises ServerUnavailable."""
        self._attempt += 1
        pause_seconds = self._retry_policy.pause_seconds(self._attempt)
        if pause_seconds is None or isinstance(error, httpx.UnsupportedProtocol):
            reason = str(error) or type(error).__name__
            raise ServerUnavailable(
                f"{self._url} did not respond after {self._attempt} "
                f"{'attempt' if self._attempt == 1 else 'attempts'}: {reason}"
            ) from error
        return pause_seconds


class Client:
    """Synchronous client; a context manager that closes its connections.

    Every method raises RequestRefused or ServerUnavailable once `retry_policy` is exhausted.
    Retries are safe: all requests are idempotent.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_policy: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        self._retry_policy = retry_policy or RetryPolicy()
        self._sleep = sleep
        self._http = httpx.Client(transport=transport, **_settings(url, key, timeout_seconds))

    def enhance(self, picture: bytes, options: EnhanceOptions | None = None) -> Enhanced:
        """Enlarge one picture file."""
        query = (options or EnhanceOptions()).query()
        return Enhanced.from_response(
            self._request("POST", "/v1/enhance", params=query, content=picture)
        )

    def models(self) -> list[dict[str, Any]]:
        """The served models, from GET /v1/models."""
        return self._request("GET", "/v1/models").json()["models"]

    def submit(self, pictures: Mapping[str, bytes], options: EnhanceOptions | None = None) -> Job:
        """Submit pictures, by file name, as a job; retries create no second job."""
        return Job.from_response(
            self._request("POST", "/v1/jobs", **_submission(pictures, options))
        )

    def job(self, job_id: str, *, wait_seconds: float = 0.0) -> Job:
        """The job, once it is finished or after `wait_seconds` (at most 60)."""
        return Job.from_response(
            self._request("GET", f"/v1/jobs/{job_id}", params={"wait": wait_seconds})
        )

    def wait(self, job_id: str) -> Job:
        """The job once it is finished."""
        while not (job := self.job(job_id, wait_seconds=WAIT_SECONDS)).finished:
            pass
        return job

    def fetch(self, job_id: str, n: int = 0) -> Enhanced:
        """The result of a job's picture. Raises RequestRefused with its problem if it failed."""
        return Enhanced.from_response(
            self._request("GET", f"/v1/jobs/{job_id}/result", params={"n": n})
        )

    def delete(self, job_id: str) -> dict[str, Any]:
        """Cancel a job, or delete it with its pictures; returns the signed receipt."""
        return self._request("DELETE", f"/v1/jobs/{job_id}").json()

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        attempts = _Attempts(self._retry_policy, self._url)
        while True:
            try:
                response = self._http.request(method, path, **arguments)
                pause_seconds = attempts.after_response(response)
            except httpx.TransportError as error:
                pause_seconds = attempts.after_error(error)
            else:
                if pause_seconds is None:
                    return response
            self._sleep(pause_seconds)


class AsyncClient:
    """Asynchronous client with the same methods."""

    def __init__(
        self,
        url: str = URL,
        *,
        key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_policy: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url
        self._retry_policy = retry_policy or RetryPolicy()
        self._sleep = sleep
        self._http = httpx.AsyncClient(transport=transport, **_settings(url, key, timeout_seconds))

    async def enhance(self, picture: bytes, options: EnhanceOptions | None = None) -> Enhanced:
        """Enlarge one picture file."""
        query = (options or EnhanceOptions()).query()
        return Enhanced.from_response(
            await self._request("POST", "/v1/enhance", params=query, content=picture)
        )

    async def models(self) -> list[dict[str, Any]]:
        """The served models, from GET /v1/models."""
        return (await self._request("GET", "/v1/models")).json()["models"]

    async def submit(
        self, pictures: Mapping[str, bytes], options: EnhanceOptions | None = None
    ) -> Job:
        """Submit pictures, by file name, as a job; retries create no second job."""
        return Job.from_response(
            await self._request("POST", "/v1/jobs", **_submission(pictures, options))
        )

    async def job(self, job_id: str, *, wait_seconds: float = 0.0) -> Job:
        """The job, once it is finished or after `wait_seconds` (at most 60)."""
        return Job.from_response(
            await self._request("GET", f"/v1/jobs/{job_id}", params={"wait": wait_seconds})
        )

    async def wait(self, job_id: str) -> Job:
        """The job once it is finished."""
        while not (job := await self.job(job_id, wait_seconds=WAIT_SECONDS)).finished:
            pass
        return job

    async def fetch(self, job_id: str, n: int = 0) -> Enhanced:
        """The result of a job's picture. Raises RequestRefused with its problem if it failed."""
        return Enhanced.from_response(
            await self._request("GET", f"/v1/jobs/{job_id}/result", params={"n": n})
        )

    async def delete(self, job_id: str) -> dict[str, Any]:
        """Cancel a job, or delete it with its pictures; returns the signed receipt."""
        return (await self._request("DELETE", f"/v1/jobs/{job_id}")).json()

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        attempts = _Attempts(self._retry_policy, self._url)
        while True:
            try:
                response = await self._http.request(method, path, **arguments)
                pause_seconds = attempts.after_response(response)
            except httpx.TransportError as error:
                pause_seconds = attempts.after_error(error)
            else:
                if pause_seconds is None:
                    return response
            await self._sleep(pause_seconds)


def _submission(pictures: Mapping[str, bytes], options: EnhanceOptions | None) -> dict[str, Any]:
    return {
        "params": (options or EnhanceOptions()).query(),
        "files": [("file", (name, data)) for name, data in pictures.items()],
        "headers": {"Idempotency-Key": uuid.uuid4().hex},
    }


def _settings(url: str, key: str | None, timeout_seconds: float) -> dict[str, Any]:
    return {
        "base_url": url,
        "headers": {} if key is None else {"Authorization": f"Bearer {key}"},
        "timeout": httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
    }
