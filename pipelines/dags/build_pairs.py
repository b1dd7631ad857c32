"""Pictures become a dataset of training pairs: twice a month, on a retraining alert, or by hand."""

from datetime import timedelta

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Metadata, Param, dag, task

from pipelines.assets import PAIRS, RETRAIN
from pipelines.events import dataset_extra
from pipelines.steps import step
from superres.environment import state_folder

TWICE_A_MONTH = CronTriggerTimetable("0 3 1,15 * *", timezone="UTC", run_immediately=timedelta(0))


@dag(
    schedule=AssetOrTimeSchedule(timetable=TWICE_A_MONTH, assets=[RETRAIN]),
    catchup=False,
    max_active_runs=1,
    params={
        "source": Param("sample", type="string", description="`sample` or a folder of pictures"),
        "scale": Param(4, enum=[2, 3, 4]),
        "degrade": Param("bicubic_jpeg", type="string"),
    },
    tags=["sharpline"],
)
def build_pairs():
    @task
    def plan(params=None, ti=None):
        recipe = ("--scale", params["scale"], "--degrade", params["degrade"])
        out = ("--out", state_folder() / "datasets")
        planned = step("data", "plan", params["source"], *recipe, *out)
        ti.xcom_push("path", planned["plan"])
        return list(range(planned["shards"]))

    @task
    def build_shard(path, shard):
        return step("data", "build", "--plan", path, "--shard", shard)

    @task(outlets=[PAIRS], trigger_rule="none_failed")
    def seal(path, dag_run=None, triggering_asset_events=None):
        sealed = step("data", "seal", "--plan", path)
        alerts = triggering_asset_events.get(RETRAIN, [])
        yield Metadata(PAIRS, dataset_extra(sealed, dag_run.run_type, alerts))

    shards = plan()
    built = build_shard.partial(path=shards["path"]).expand(shard=shards)
    built >> seal(shards["path"])


build_pairs()
