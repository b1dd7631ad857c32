"""Typed client of the picture server, sync and async, with retries that honour Retry-After."""

from sharpline.client.folder import FolderReport, enhance_folder
from sharpline.client.http import AsyncClient, Client
from sharpline.client.types import (
    Enhanced,
    EnhanceOptions,
    Job,
    RequestRefused,
    RetryPolicy,
    ServerUnavailable,
)

__all__ = [
    "AsyncClient",
    "Client",
    "EnhanceOptions",
    "Enhanced",
    "FolderReport",
    "Job",
    "RequestRefused",
    "RetryPolicy",
    "ServerUnavailable",
    "enhance_folder",
]
