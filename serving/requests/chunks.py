"""A response body in chunks."""

from collections import deque
from collections.abc import AsyncGenerator


class BodyChunks:
    """The chunks of a file: those that are ready, then those still to be computed."""

    def __init__(self, first: list[bytes], rest: AsyncGenerator[bytes]) -> None:
        self._first = deque(first)
        self._rest = rest

    def __aiter__(self) -> "BodyChunks":
        return self

    async def __anext__(self) -> bytes:
        return self._first.popleft() if self._first else await anext(self._rest)

    async def aclose(self) -> None:
        """Cancel the remaining chunks; no-op at the end."""
        await self._rest.aclose()
