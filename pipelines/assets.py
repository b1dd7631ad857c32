"""The assets that connect the DAGs; an event on an asset starts the next DAG."""

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
