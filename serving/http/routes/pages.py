"""The web page, the API documentation and the problem types; all assets are local."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as Parameter
from fastapi.responses import FileResponse

from serving.http.routes.documents import problems
from serving.problems import Explanation, explain

WEB = Path(__file__).parents[2] / "web"

router = APIRouter()


@router.get("/", include_in_schema=False)
async def page(request: Request) -> FileResponse:
    return FileResponse(WEB / "index.html")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> FileResponse:
    return FileResponse(WEB / "docs.html")


@router.get(
    "/problems/{label}",
    summary="Explain a problem type",
    tags=["problems"],
    responses=problems(404, 421, 422),
)
async def problem_type(
    label: Annotated[str, Parameter(max_length=64, description="the end of a problem's `type`")],
) -> Explanation:
    """The `type` of every problem response is the URL of its explanation here."""
    return explain(label)
