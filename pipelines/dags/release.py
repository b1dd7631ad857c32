"""Runs the gate on each candidate and promotes those that pass, on the gate's evidence."""

from airflow.sdk import dag, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.assets import CANDIDATES
from pipelines.events import candidates_in
from pipelines.steps import step


@dag(schedule=[CANDIDATES], catchup=False, max_active_runs=1, tags=["sharpline"])
def release():
    @task(inlets=[CANDIDATES])
    def candidates(triggering_asset_events=None, inlet_events=None):
        return candidates_in(triggering_asset_events.get(CANDIDATES, []), inlet_events[CANDIDATES])

    @task(max_active_tis_per_dag=1, map_index_template="{{ task.op_kwargs['candidate']['model'] }}")
    def gate(candidate):
        version = ("--version", candidate["version"])
        data = ("--on", candidate["dataset"])
        return step("gate", candidate["model"], *version, *data, result_codes=(0, 1))

    @task(map_index_template="{{ task.op_kwargs['gate_result']['model'] }}")
    def promote(gate_result):
        if not gate_result["passed"]:
            raise AirflowSkipException(f"{gate_result['model']} refused: {gate_result['reasons']}")
        version, evidence = gate_result["version"], gate_result["evidence"]
        return step("promote", gate_result["model"], "--version", version, "--evidence", evidence)

    @task_group
    def decision(candidate):
        promote(gate_result=gate(candidate=candidate))

    decision.expand(candidate=candidates())


release()
