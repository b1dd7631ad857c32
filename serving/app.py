"""The one place where the server is put together."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serving import errors
from serving.admission import Admission
from serving.drift import LiveWindow
from serving.engine import Engine
from serving.enhancer import Enhancer
from serving.loaded import BackendLoader
from serving.metrics import Metrics
from serving.models import Models
from serving.reporter import Reporter, show_when_scraped
from serving.routes import enhance, health, models, pages
from serving.scheduler import BatchLimits, Scheduler
from serving.security import OwnFaults, RequestFigures, SecurityHeaders, instance_of
from serving.services import Services
from serving.settings import Settings
from superres.environment import cpu_threads
from superres.image import PictureError


def create_app(settings: Settings, *, load_backend: BackendLoader | None = None) -> FastAPI:
    """A server that is ready to be run; its threads start and end with its lifespan.

    `load_backend` replaces how a bundle is put on a device.
    """
    services = _wire(settings, load_backend)
    app = FastAPI(
        title="Sharpline",
        version="1",
        lifespan=_lifespan(services),
        docs_url=None,
        redoc_url=None,
        summary="Small or damaged pictures in, large clean ones out",
    )
    app.state.services = services
    for room in (enhance, models, health, pages):
        app.include_router(room.router)
    app.mount("/web", StaticFiles(directory=pages.WEB), name="web")
    _answer_errors(app)
    app.add_middleware(OwnFaults)
    origins = settings.security.allow_origins
    app.add_middleware(SecurityHeaders, allow_origins=origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            expose_headers=["Server-Timing", "Sharpline-Model"],
        )
    app.add_middleware(RequestFigures, metrics=services.metrics)
    return app


def _wire(settings: Settings, load_backend: BackendLoader | None) -> Services:
    metrics = Metrics()
    reporter = Reporter(metrics)
    batch_limits = BatchLimits(**settings.batch.model_dump())
    scheduler = Scheduler(batch_limits)
    engine = Engine(scheduler, reporter)
    models = Models(settings.models, engine.call, reporter, load_backend)
    admission = Admission(settings.limits, settings.queue)
    window = LiveWindow(settings.drift)
    enhancer = Enhancer(scheduler, batch_limits, window, reporter, worker_threads=cpu_threads())
    show_when_scraped(
        metrics, scheduler=scheduler, admission=admission, models=models, window=window
    )
    return Services(
        settings=settings,
        metrics=metrics,
        reporter=reporter,
        admission=admission,
        scheduler=scheduler,
        engine=engine,
        models=models,
        window=window,
        enhancer=enhancer,
    )


def _lifespan(services: Services) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.engine.start()
        services.models.start()
        try:
            yield
        finally:
            services.admission.drain()
            # The watcher first: it may be waiting for the engine to warm a model up.
            await to_thread.run_sync(services.models.stop_watching)
            await to_thread.run_sync(services.engine.stop)
            services.models.close()

    return lifespan


def _answer_errors(app: FastAPI) -> None:
    """Every error as a problem, whoever raised it."""

    @app.exception_handler(errors.ServingError)
    @app.exception_handler(PictureError)
    async def refuse(request: Request, error: errors.ServingError | PictureError) -> Response:
        return errors.problem_response(error, instance_of(request.scope))

    @app.exception_handler(RequestValidationError)
    async def bad_options(request: Request, error: RequestValidationError) -> Response:
        faults = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors())
        return await refuse(request, errors.BadOptions(faults))

    @app.exception_handler(HTTPException)
    async def by_status(request: Request, error: HTTPException) -> Response:
        kinds = {404: errors.NotFound, 405: errors.MethodNotAllowed}
        kind = kinds.get(error.status_code, errors.ClientError)
        return await refuse(request, kind(f"{request.method} {request.url.path}: {error.detail}"))
