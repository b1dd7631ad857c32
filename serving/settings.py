"""What can be set about the server: `SHARPLINE_*` variables, read once at the start.

A nested name joins with two underscores: `SHARPLINE_LIMITS__MAX_BYTES=8000000`.
"""

import difflib
import os
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.setting_groups import (
    BatchSettings,
    ConsistencySettings,
    DrainSettings,
    DriftSettings,
    JobSettings,
    LimitSettings,
    LogSettings,
    ModelSettings,
    PassportSettings,
    QueueSettings,
    SecuritySettings,
)
from superres.common.console import show
from superres.common.environment import SHARED
from superres.common.errors import UsageError

PREFIX = "SHARPLINE_"
DELIMITER = "__"


class Settings(BaseSettings):
    """Everything that can be set; complete with no variable set at all."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(
        default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one"
    )
    limits: LimitSettings = LimitSettings()
    queue: QueueSettings = QueueSettings()
    batch: BatchSettings = BatchSettings()
    consistency: ConsistencySettings = ConsistencySettings()
    models: ModelSettings = ModelSettings()
    drift: DriftSettings = DriftSettings()
    security: SecuritySettings = SecuritySettings()
    jobs: JobSettings = JobSettings()
    logs: LogSettings = LogSettings()
    passport: PassportSettings = PassportSettings()
    drain: DrainSettings = DrainSettings()


def load_settings(**given: object) -> Settings:
    """Settings from the environment; `given` top-level values win over it.

    Raises UsageError naming the variable that is unknown or has a value that does not fit.
    """
    refuse_unknown(os.environ)
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks the values
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + DELIMITER.join(str(part) for part in first["loc"]).upper()
        raise UsageError(f"{name} cannot be {first['input']!r}: {first['msg']}") from error


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raise UsageError for a SHARPLINE_* variable that nothing reads, suggesting the nearest."""
    known = {*variable_names(), *SHARED}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)
            raise UsageError(f"{name} is not a setting of Sharpline; did you mean {nearest[0]}?")


def variable_names() -> list[str]:
    """The environment variable of every setting."""
    return [name for name, _ in _fields(Settings)]


def _fields(model: type[BaseModel], prefix: str = PREFIX) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name.upper()}{DELIMITER}")
        else:
            yield prefix + name.upper(), field


def markdown() -> str:
    """Every setting as docs/settings.md."""
    rows = [
        f"| `{name}` | {_default_of(field)} | {field.description} |"
        for name, field in _fields(Settings)
    ]
    return "\n".join(
        [
            "# Settings of the server",
            "",
            "Read once when `sharpline serve` starts; an option on the command line wins over its",
            "variable, and an unknown `SHARPLINE_*` variable is refused.",
            "Made by `python -m serving.settings`.",
            "",
            "| variable | default | meaning |",
            "|---|---|---|",
            *rows,
        ]
    )


def _default_of(field: FieldInfo) -> str:
    return "none" if field.default in ((), None) else f"`{field.default}`"


if __name__ == "__main__":
    show(markdown())
