"""Fine-tunes each recipe from its champion on a new dataset and registers the candidates."""

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Metadata, Param, dag, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.assets import CANDIDATES, PAIRS
from pipelines.events import candidates_extra, training_request
from pipelines.steps import fine_tune, step

RECIPES = ["compact_x4", "esrgan_small_x4", "swinir_light_x4"]


@dag(
    schedule=[PAIRS],
    catchup=False,
    max_active_runs=1,
    params={
        "recipes": Param(RECIPES, type="array", items={"type": "string"}),
        "profile": Param("finetune", enum=["full", "finetune", "smoke"]),
    },
    tags=["sharpline"],
)
def finetune():
    @task(inlets=[PAIRS])
    def trainings(params=None, triggering_asset_events=None, inlet_events=None):
        request = training_request(triggering_asset_events.get(PAIRS, []), inlet_events[PAIRS])
        if request.skip_reason:
            raise AirflowSkipException(request.skip_reason)
        return [{"recipe": recipe, "data": request.path} for recipe in params["recipes"]]

    @task(max_active_tis_per_dag=1, map_index_template="{{ task.op_kwargs['recipe'] }}")
    def train(recipe, data, params=None, dag_run=None):
        return fine_tune(recipe, data, params["profile"], f"finetune {dag_run.run_id}")

    @task(map_index_template="{{ task.op_kwargs['trained']['model'] }}")
    def register(trained, data):
        return step("register", trained["bundle"]) | {"dataset": data}

    @task_group
    def candidate(recipe, data):
        return register(trained=train(recipe=recipe, data=data), data=data)

    @task(outlets=[CANDIDATES], trigger_rule="all_done_min_one_success")
    def announce(registered):
        yield Metadata(CANDIDATES, candidates_extra(registered))

    registered = candidate.expand_kwargs(trainings())
    announce(registered)
    registered >> EmptyOperator(task_id="every_recipe_trained")


finetune()
