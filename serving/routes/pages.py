"""The page, the API's documentation and what the problem types mean; no other host is asked."""

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from pydantic.dataclasses import dataclass

from serving import errors

WEB = Path(__file__).parent.parent / "web"

router = APIRouter()


@dataclass(frozen=True)
class ProblemType:
    """What a kind of problem means and what to do about it."""

    type: str
    title: str
    status: int
    advice: str


@router.get("/", include_in_schema=False)
async def page(request: Request) -> FileResponse:
    return FileResponse(WEB / "index.html")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> FileResponse:
    return FileResponse(WEB / "docs.html")


@router.get("/problems/{label}", summary="What a problem type means", tags=["problems"])
async def problem_type(label: str) -> ProblemType:
    """The `type` of every problem answer is the address of its explanation here."""
    explanation = errors.explain(label)
    return ProblemType(
        type=errors.TYPE_PREFIX + label,
        title=explanation.title,
        status=explanation.status,
        advice=explanation.advice,
    )
