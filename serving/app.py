"""Builds the FastAPI app from its components."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serving import errors
from serving.batching.engine import Engines
from serving.batching.scheduler import Scheduler
from serving.batching.tiles import BatchLimits
from serving.enhance.admission import Admission
from serving.enhance.costs import CostModel
from serving.enhance.enhancer import Enhancer, EnhancerParts
from serving.enhance.shadow import ShadowRunner
from serving.enhance.steps import PictureServices
from serving.http.request_log import RequestMetrics
from serving.http.routes import enhance, health, jobs, models, pages, results, uploads, v2
from serving.http.routes.documents import RESPONSE_HEADERS
from serving.http.security import (
    REQUEST_ID,
    InternalErrorMiddleware,
    SecurityMiddleware,
    error_response,
    hosts_of,
)
from serving.jobs.jobs import Jobs
from serving.jobs.webhooks import AddressGuard
from serving.jobs.work import JobPictureWork
from serving.models.loaded import BackendLoader
from serving.models.reload import Models
from serving.reporter import Reporter, register_gauges
from serving.requests.client_address import ClientAddresses
from serving.requests.keys import KeyRing
from serving.requests.options import describe
from serving.services import Services
from serving.settings import Settings
from serving.telemetry.drift import LiveWindow
from serving.telemetry.metrics import Metrics
from serving.threads import in_thread
from superres.common.environment import cpu_threads
from superres.image.codecs import PictureError
from superres.model.backends import devices_of


def create_app(settings: Settings, *, load_backend: BackendLoader | None = None) -> FastAPI:
    """The app; its threads start and stop with its lifespan.

    `load_backend` replaces the loader of backends, for tests.
    """
    services = _wire(settings, load_backend)
    app = FastAPI(
        title="Sharpline",
        version="1",
        lifespan=_lifespan(services),
        docs_url=None,
        redoc_url=None,
        summary="Image super-resolution and restoration",
    )
    app.state.services = services
    for module in (enhance, jobs, results, uploads, models, health, pages, v2):
        app.include_router(module.router)
    app.include_router(v2.guarded)
    app.mount("/web", StaticFiles(directory=pages.WEB), name="web")
    _register_error_handlers(app)
    app.add_middleware(InternalErrorMiddleware)
    origins = settings.security.allow_origins
    app.add_middleware(SecurityMiddleware, allow_origins=origins, hosts=hosts_of(settings))
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["DELETE", "GET", "POST", "PUT"],
            allow_headers=["Authorization", "Idempotency-Key", "Prefer", REQUEST_ID],
            expose_headers=[*RESPONSE_HEADERS, REQUEST_ID, "Location", "Retry-After"],
        )
    app.add_middleware(RequestMetrics, metrics=services.metrics)
    return app


def _wire(settings: Settings, load_backend: BackendLoader | None) -> Services:
    metrics, costs = Metrics(), CostModel()
    reporter = Reporter(metrics, costs)
    batch = settings.batch
    batch_limits = BatchLimits(**batch.model_dump(exclude={"stuck_seconds"}))
    scheduler = Scheduler(batch_limits)
    devices = devices_of(settings.models.backend, settings.models.device)
    engines = Engines(scheduler, reporter, len(devices), batch.stuck_seconds)
    models = Models(settings.models, engines.call, reporter, load_backend, devices)
    admission = Admission(settings.limits, settings.queue, costs, len(devices))
    window = LiveWindow(settings.drift)
    shadows = ShadowRunner(models, scheduler, reporter, settings.consistency.max_levels)
    enhancer = Enhancer(
        EnhancerParts(
            scheduler=scheduler,
            limits=batch_limits,
            window=window,
            observer=reporter,
            shadows=shadows,
            consistency=settings.consistency,
            worker_threads=cpu_threads(),
        )
    )
    pictures = PictureServices(
        settings=settings,
        keys=KeyRing(settings.security.keys_file),
        reporter=reporter,
        admission=admission,
        models=models,
        enhancer=enhancer,
        costs=costs,
    )
    guard = AddressGuard(settings.jobs.webhook_networks)
    jobs = Jobs(settings.jobs, JobPictureWork(pictures), lambda: admission.draining, guard)
    register_gauges(
        metrics,
        scheduler=scheduler,
        admission=admission,
        models=models,
        window=window,
        costs=costs,
        jobs=jobs,
    )
    return Services(
        pictures=pictures,
        clients=ClientAddresses(settings.security.trusted_proxies),
        metrics=metrics,
        scheduler=scheduler,
        engines=engines,
        window=window,
        shadows=shadows,
        jobs=jobs,
    )


def _lifespan(services: Services) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.engines.start()
        services.pictures.models.start()
        await services.jobs.start()
        try:
            yield
        finally:
            services.pictures.admission.drain()
            await services.jobs.stop()
            # Before the engines: the thread may be warming up a model on one.
            await in_thread(services.pictures.models.stop_watching)
            await services.shadows.stop()
            await in_thread(services.engines.stop)
            services.pictures.models.close()

    return lifespan


def _register_error_handlers(app: FastAPI) -> None:
    """Turn every exception into a problem response."""

    @app.exception_handler(errors.ServingError)
    @app.exception_handler(PictureError)
    async def refuse(request: Request, error: errors.ServingError | PictureError) -> Response:
        return error_response(error, request.scope)

    @app.exception_handler(RequestValidationError)
    async def bad_options(request: Request, error: RequestValidationError) -> Response:
        return await refuse(request, errors.BadOptions(describe(error)))

    @app.exception_handler(HTTPException)
    async def by_status(request: Request, error: HTTPException) -> Response:
        kinds = {404: errors.NotFound, 405: errors.MethodNotAllowed}
        kind = kinds.get(error.status_code, errors.ClientError)
        return await refuse(request, kind(f"{request.method} {request.url.path}: {error.detail}"))
