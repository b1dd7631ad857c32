"""The assets through which the DAGs meet; an event on one of them starts the next DAG."""

from airflow.sdk import Asset, AssetWatcher

from pipelines.triggers import FolderTrigger, PrometheusAlertTrigger

RETRAIN = Asset(
    "sharpline://alert/retrain",
    watchers=[AssetWatcher(name="prometheus", trigger=PrometheusAlertTrigger())],
)
PICTURES = Asset(
    "sharpline://source/pictures",
    watchers=[AssetWatcher(name="folders", trigger=FolderTrigger())],
)
PAIRS = Asset("sharpline://dataset/pairs")
CANDIDATES = Asset("sharpline://models/candidates")
