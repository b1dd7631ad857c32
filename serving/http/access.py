"""API key authentication and request quotas of the API's routes."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from serving.requests.keys import Caller
from serving.services import services_of

BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="A key created by `sharpline keys add`; required if the server has a key file",
)


async def require_key(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
) -> None:
    """Authenticate the caller and charge the request. Raises BadKey or QuotaExceeded."""
    services = services_of(request)
    request.state.client = f"ip:{services.clients.address_of(request)}"
    caller = services.pictures.keys.caller(credentials.credentials if credentials else None)
    request.state.caller = caller
    if caller.key is not None:
        request.state.client = f"key:{caller.key.id}"
    caller.charge_request()


def client_of(request: Request) -> str:
    """The client's id for fair sharing and canaries: `key:ID` with a key, else `ip:ADDRESS`."""
    return request.state.client


def caller_of(request: Request) -> Caller:
    """The caller with its quotas."""
    return request.state.caller
