"""The two clients: the same requests over httpx, one waits, the other awaits."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
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
WAIT_SECONDS = 30.0  # of one request for a job's end; the server waits for so long


class _Tries:
    """Decides after each try whether there is another, and after how long."""

    def __init__(self, retry_policy: RetryPolicy, url: str) -> None:
        self._retry_policy = retry_policy
        self._url = url
        self._attempt = 0

    def after_answer(self, response: httpx.Response) -> float | None:
        """Seconds to wait before the next try; None where the answer is good. Raises Refused."""
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
        """Seconds to wait before the next try. Raises ServerAway."""
        self._attempt += 1
        pause_seconds = self._retry_policy.pause_seconds(self._attempt)
        if pause_seconds is None or isinstance(error, httpx.UnsupportedProtocol):
            reason = str(error) or type(error).__name__
            raise ServerUnavailable(
                f"{self._url} did not answer in {self._attempt} "
                f"{'try' if self._attempt == 1 else 'tries'}: {reason}"
            ) from error
        return pause_seconds


class Client:
    """A picture server, asked in the calling thread; a context manager that closes connections.

    Every method raises RequestRefused or ServerUnavailable once `retry_policy` is exhausted.
    Requests can be repeated without harm: enlarging changes nothing on the server.
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
        """One picture's file, enlarged."""
        query = (options or EnhanceOptions()).query()
        return Enhanced.of(self._ask("POST", "/v1/enhance", params=query, content=picture))

    def models(self) -> list[dict[str, Any]]:
        """What is served, as GET /v1/models tells it."""
        return self._ask("GET", "/v1/models").json()["models"]

    def submit(self, pictures: Mapping[str, bytes], options: EnhanceOptions | None = None) -> Job:
        """Hand pictures over, by file name, to be worked on later; tried again it is one job."""
        return Job.of(self._ask("POST", "/v1/jobs", **_submission(pictures, options)))

    def job(self, job_id: str, *, wait_seconds: float = 0.0) -> Job:
        """How far a job is, once it is over or after `wait_seconds` (60 at the most)."""
        return Job.of(self._ask("GET", f"/v1/jobs/{job_id}", params={"wait": wait_seconds}))

    def wait(self, job_id: str) -> Job:
        """The job once it is over."""
        while not (job := self.job(job_id, wait_seconds=WAIT_SECONDS)).finished:
            pass
        return job

    def fetch(self, job_id: str, n: int = 0) -> Enhanced:
        """The answer to a job's picture. Raises Refused with the problem that it had instead."""
        return Enhanced.of(self._ask("GET", f"/v1/jobs/{job_id}/result", params={"n": n}))

    def delete(self, job_id: str) -> dict[str, Any]:
        """Cancel a job, or delete it with its pictures: the signed receipt."""
        return self._ask("DELETE", f"/v1/jobs/{job_id}").json()

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        tries = _Tries(self._retry_policy, self._url)
        while True:
            try:
                response = self._http.request(method, path, **given)
                pause_seconds = tries.after_answer(response)
            except httpx.TransportError as error:
                pause_seconds = tries.after_error(error)
            else:
                if pause_seconds is None:
                    return response
            self._sleep(pause_seconds)


class AsyncClient:
    """The same on an event loop, for many pictures at once."""

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
        """One picture's file, enlarged."""
        query = (options or EnhanceOptions()).query()
        return Enhanced.of(await self._ask("POST", "/v1/enhance", params=query, content=picture))

    async def models(self) -> list[dict[str, Any]]:
        """What is served, as GET /v1/models tells it."""
        return (await self._ask("GET", "/v1/models")).json()["models"]

    async def submit(
        self, pictures: Mapping[str, bytes], options: EnhanceOptions | None = None
    ) -> Job:
        """Hand pictures over, by file name, to be worked on later; tried again it is one job."""
        return Job.of(await self._ask("POST", "/v1/jobs", **_submission(pictures, options)))

    async def job(self, job_id: str, *, wait_seconds: float = 0.0) -> Job:
        """How far a job is, once it is over or after `wait_seconds` (60 at the most)."""
        return Job.of(await self._ask("GET", f"/v1/jobs/{job_id}", params={"wait": wait_seconds}))

    async def wait(self, job_id: str) -> Job:
        """The job once it is over."""
        while not (job := await self.job(job_id, wait_seconds=WAIT_SECONDS)).finished:
            pass
        return job

    async def fetch(self, job_id: str, n: int = 0) -> Enhanced:
        """The answer to a job's picture. Raises Refused with the problem that it had instead."""
        return Enhanced.of(await self._ask("GET", f"/v1/jobs/{job_id}/result", params={"n": n}))

    async def delete(self, job_id: str) -> dict[str, Any]:
        """Cancel a job, or delete it with its pictures: the signed receipt."""
        return (await self._ask("DELETE", f"/v1/jobs/{job_id}")).json()

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        tries = _Tries(self._retry_policy, self._url)
        while True:
            try:
                response = await self._http.request(method, path, **given)
                pause_seconds = tries.after_answer(response)
            except httpx.TransportError as error:
                pause_seconds = tries.after_error(error)
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
