"""Who calls: every route of the API asks for a key where the server has keys, and counts it."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from serving.requests.keys import Caller
from serving.services import services_of

BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="A key that `sharpline keys add` made; needed where the server has a file of keys",
)


async def require_key(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
) -> None:
    """Know the caller and count the request. Raises BadKey or QuotaExceeded."""
    services = services_of(request)
    request.state.client = f"ip:{services.clients.address_of(request)}"
    caller = services.keys.caller(credentials.credentials if credentials else None)
    request.state.caller = caller
    if caller.key is not None:
        request.state.client = f"key:{caller.key.id}"
    caller.charge_request()


def client_of(request: Request) -> str:
    """What fair shares and canaries go by: `key:ID` where there is a key, else `ip:ADDRESS`."""
    return request.state.client


def caller_of(request: Request) -> Caller:
    """The caller, with its quota."""
    return request.state.caller
