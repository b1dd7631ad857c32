from pathlib import Path

import pytest

from serving import settings as module
from serving.settings import Settings, load_settings, variable_names
from superres.common.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"

# A value other than the default for every setting.
OTHER = {
    "SHARPLINE_HOST": "0.0.0.0",
    "SHARPLINE_PORT": "9000",
    "SHARPLINE_LIMITS__MAX_BYTES": "1000",
    "SHARPLINE_LIMITS__MAX_PIXELS": "1000",
    "SHARPLINE_LIMITS__MAX_SIDE": "1000",
    "SHARPLINE_LIMITS__MAX_OUTPUT_PIXELS": "1000",
    "SHARPLINE_LIMITS__BODY_SECONDS": "1.5",
    "SHARPLINE_LIMITS__DEADLINE_SECONDS": "1.5",
    "SHARPLINE_QUEUE__MAX_PICTURES": "3",
    "SHARPLINE_QUEUE__MAX_PICTURES_PER_CLIENT": "3",
    "SHARPLINE_QUEUE__MAX_WAIT_SECONDS": "1.5",
    "SHARPLINE_QUEUE__MAX_STRETCH": "2",
    "SHARPLINE_QUEUE__MAX_BYTES": "1000",
    "SHARPLINE_QUEUE__MAX_OUTPUT_PIXELS": "1000",
    "SHARPLINE_BATCH__MAX_TILES": "3",
    "SHARPLINE_BATCH__MAX_PIXELS": "1000",
    "SHARPLINE_BATCH__MAX_WAIT_SECONDS": "0",
    "SHARPLINE_BATCH__FAIR_PIXELS": "1000",
    "SHARPLINE_BATCH__STUCK_SECONDS": "60",
    "SHARPLINE_CONSISTENCY__ACTION": "flag",
    "SHARPLINE_CONSISTENCY__MAX_LEVELS": "20",
    "SHARPLINE_MODELS__FOLDER": "/srv/models",
    "SHARPLINE_MODELS__DEFAULT": "swinir_light_x4",
    "SHARPLINE_MODELS__POLL_SECONDS": "0.5",
    "SHARPLINE_MODELS__BACKEND": "torch",
    "SHARPLINE_MODELS__DEVICE": "cuda",
    "SHARPLINE_MODELS__PRECISION": "fp32",
    "SHARPLINE_DRIFT__WINDOW": "10",
    "SHARPLINE_DRIFT__MINIMUM": "5",
    "SHARPLINE_DRIFT__MAX_AGE_SECONDS": "60",
    "SHARPLINE_SECURITY__KEYS_FILE": "/etc/sharpline/keys.json",
    "SHARPLINE_SECURITY__OPEN": "true",
    "SHARPLINE_SECURITY__ALLOW_HOSTS": "a.example,b.example",
    "SHARPLINE_SECURITY__TRUSTED_PROXIES": "10.0.0.0/8,::1",
    "SHARPLINE_SECURITY__ALLOW_ORIGINS": "https://a.example,https://b.example",
    "SHARPLINE_JOBS__FOLDER": "/srv/jobs",
    "SHARPLINE_JOBS__BUCKET": "pictures/jobs",
    "SHARPLINE_JOBS__BUCKET_DIRECT": "false",
    "SHARPLINE_JOBS__BUCKET_ENDPOINT": "http://minio:9000",
    "SHARPLINE_JOBS__SIGNING_KEY": "/etc/sharpline/signing.key",
    "SHARPLINE_JOBS__DATABASE": "postgresql+psycopg://host/name",
    "SHARPLINE_JOBS__WORKERS": "1",
    "SHARPLINE_JOBS__LEASE_SECONDS": "5",
    "SHARPLINE_JOBS__HEARTBEAT_SECONDS": "0.5",
    "SHARPLINE_JOBS__POLL_SECONDS": "0.5",
    "SHARPLINE_JOBS__PICTURE_SECONDS": "60",
    "SHARPLINE_JOBS__WAIT_SECONDS": "60",
    "SHARPLINE_JOBS__RESULT_SECONDS": "60",
    "SHARPLINE_JOBS__UPLOAD_SECONDS": "60",
    "SHARPLINE_JOBS__SWEEP_SECONDS": "5",
    "SHARPLINE_JOBS__MAX_PICTURES": "10",
    "SHARPLINE_JOBS__MAX_QUEUED_PER_CLIENT": "10",
    "SHARPLINE_JOBS__WEBHOOK_SECONDS": "5",
    "SHARPLINE_JOBS__WEBHOOK_NETWORKS": "10.0.0.0/8",
    "SHARPLINE_LOGS__FORMAT": "json",
    "SHARPLINE_LOGS__LEVEL": "debug",
    "SHARPLINE_PASSPORT__EMBED": "false",
    "SHARPLINE_DRAIN__LINGER_SECONDS": "5",
    "SHARPLINE_DRAIN__MAX_SECONDS": "10",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in OTHER:
        monkeypatch.delenv(name, raising=False)


def setting_values(settings):
    """The value of every setting as text, by environment variable."""
    values = {}
    for name, value in settings.model_dump().items():
        section = value if isinstance(value, dict) else {"": value}
        for inner, item in section.items():
            joined = f"SHARPLINE_{name}__{inner}" if inner else f"SHARPLINE_{name}"
            values[joined.upper()] = ",".join(item) if isinstance(item, tuple) else str(item)
    return values


def test_every_setting_is_read_from_its_own_variable(monkeypatch):
    assert sorted(OTHER) == sorted(variable_names())
    defaults = setting_values(Settings())
    for name, text in OTHER.items():
        with monkeypatch.context() as context:
            context.setenv(name, text)
            changed = {
                key
                for key, value in setting_values(load_settings()).items()
                if value != defaults[key]
            }
        assert changed == {name}


def test_overrides_take_precedence_over_their_variables_only(monkeypatch):
    monkeypatch.setenv("SHARPLINE_PORT", "9000")
    monkeypatch.setenv("SHARPLINE_MODELS__FOLDER", "elsewhere")
    monkeypatch.setenv("SHARPLINE_MODELS__DEVICE", "cuda")
    settings = load_settings(port=0, models={"folder": Path("here")})
    assert settings.port == 0
    assert settings.models.folder == Path("here")
    assert settings.models.device == "cuda"


def test_unknown_variable_is_refused_with_the_nearest_name(monkeypatch):
    monkeypatch.setenv("SHARPLINE_LIMITS__MAX_BYTE", "5")
    with pytest.raises(UsageError, match=r"MAX_BYTE is not .* SHARPLINE_LIMITS__MAX_BYTES\?"):
        load_settings()


def test_variables_of_other_packages_are_known(monkeypatch):
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", "http://127.0.0.1:5000")
    assert load_settings().port == 8000


def test_variables_of_other_programs_are_ignored(monkeypatch):
    monkeypatch.setenv("SHARPEN_PORT", "1")
    assert load_settings().port == 8000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHARPLINE_PORT", "70000"),
        ("SHARPLINE_LIMITS__MAX_BYTES", "much"),
        ("SHARPLINE_QUEUE__MAX_PICTURES", "0"),
        ("SHARPLINE_MODELS__BACKEND", "abacus"),
        ("SHARPLINE_SECURITY__TRUSTED_PROXIES", "everybody"),
    ],
)
def test_error_of_an_invalid_value_names_its_variable(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(UsageError, match=f"{name} cannot be '{text}'"):
        load_settings()


def test_documentation_is_up_to_date():
    assert DOCS.read_text() == module.markdown() + "\n", (
        "run: python -m serving.settings > docs/settings.md"
    )
