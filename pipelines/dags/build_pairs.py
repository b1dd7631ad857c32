"""Builds a dataset of training pairs: on a schedule, on an alert, on new pictures, or manually."""

from datetime import timedelta

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Metadata, dag, task

from pipelines.assets import PAIRS, PICTURES, RETRAIN
from pipelines.events import dataset_extra, degradation_for
from pipelines.parameters import PAIR_PARAMETERS
from pipelines.retries import FETCH_RETRIES, STEP_RETRIES
from pipelines.sources import choose_sources, parts_for
from pipelines.steps import fetch_source, plan_pairs, step

TWICE_A_MONTH = CronTriggerTimetable("0 3 1,15 * *", timezone="UTC", run_immediately=timedelta(0))


@dag(
    schedule=AssetOrTimeSchedule(timetable=TWICE_A_MONTH, assets=RETRAIN | PICTURES),
    catchup=False,
    max_active_runs=1,
    params=PAIR_PARAMETERS,
    default_args=STEP_RETRIES,
    tags=["sharpline"],
)
def build_pairs():
    @task
    def choose(params=None, ti=None):
        sources = choose_sources(params, step("data", "list")["sources"])
        ti.xcom_push("names", sources.names)
        return sources.missing

    @task(**FETCH_RETRIES, map_index_template="{{ task.op_kwargs['name'] }}")
    def fetch(name, params=None):
        return fetch_source(name, parts_for(params), params["mirror"])

    @task(trigger_rule="none_failed")
    def plan(names, params=None, triggering_asset_events=None, ti=None):
        alerts = triggering_asset_events.get(RETRAIN, [])
        planned = plan_pairs(names, degradation_for(params["degrade"], alerts), params)
        ti.xcom_push("path", planned["plan"])
        return [] if planned["unchanged"] else list(range(planned["shards"]))

    @task
    def build_shard(path, shard):
        return step("data", "build", "--plan", path, "--shard", shard)

    @task(outlets=[PAIRS], trigger_rule="none_failed")
    def seal(path, dag_run=None, triggering_asset_events=None):
        sealed = step("data", "seal", "--plan", path)
        alerts = triggering_asset_events.get(RETRAIN, [])
        yield Metadata(PAIRS, dataset_extra(sealed, dag_run.run_type, alerts))

    missing = choose()
    planned = plan(missing["names"])
    fetch.expand(name=missing) >> planned
    build_shard.partial(path=planned["path"]).expand(shard=planned) >> seal(planned["path"])


build_pairs()
