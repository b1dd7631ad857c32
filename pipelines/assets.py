"""The assets through which the DAGs meet; an event on one of them starts the next DAG."""

from airflow.sdk import Asset, AssetWatcher

from pipelines.triggers import PrometheusAlertTrigger

RETRAIN = Asset(
    "sharpline://alert/retrain",
    watchers=[AssetWatcher(name="prometheus", trigger=PrometheusAlertTrigger())],
)
PAIRS = Asset("sharpline://dataset/pairs")
CANDIDATES = Asset("sharpline://models/candidates")
