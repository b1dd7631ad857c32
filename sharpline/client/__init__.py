"""A client of the picture server: typed, sync and async, patient where the server asks for it."""

from sharpline.client.folder import FolderReport, enhance_folder
from sharpline.client.http import AsyncClient, Client
from sharpline.client.words import Enhanced, Job, Patience, Refused, ServerAway, Wishes

__all__ = [
    "AsyncClient",
    "Client",
    "Enhanced",
    "FolderReport",
    "Job",
    "Patience",
    "Refused",
    "ServerAway",
    "Wishes",
    "enhance_folder",
]
