"""A step is one command: its result, its exit codes, its failures and its termination."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipelines import steps
from pipelines.steps import StepFailed, UsageFailed, champion_bundle, fine_tune, step


def run(code: str, *arguments, **options):
    return step(*arguments, command=[sys.executable, "-c", textwrap.dedent(code)], **options)


def test_the_last_line_of_output_is_the_result():
    result = run(
        """
        import json, sys
        print("chatter")
        print(json.dumps({"arguments": sys.argv[1:]}))
    """,
        "data",
        "plan",
        "--scale",
        4,
    )
    assert result == {"arguments": ["data", "plan", "--scale", "4", "--json"]}


def test_stderr_is_streamed_to_the_task_log(caplog):
    with caplog.at_level(logging.INFO, "pipelines.steps"):
        run("import sys; sys.stderr.write('step 1/2\\n\\nstep 2/2\\n'); print('{}')")
    assert [record.message for record in caplog.records[1:]] == ["step 1/2", "step 2/2"]


def test_a_failing_command_fails_with_the_end_of_its_log():
    with pytest.raises(StepFailed, match=r"(?s)failed with exit 1\n.*the disk is full"):
        run("""
            import sys
            print("{}")
            sys.stderr.write("line\\n" * 100 + "the disk is full\\n")
            sys.exit(1)
        """)


def test_a_usage_error_is_a_failure_even_with_result_codes():
    with pytest.raises(UsageFailed, match="failed with exit 2"):
        run("import sys; print('{}'); sys.exit(2)", result_codes=(0, 1))


def test_other_exit_codes_are_not_usage_errors():
    with pytest.raises(StepFailed) as failure:
        run("import sys; sys.exit(3)")
    assert not isinstance(failure.value, UsageFailed)


def test_a_refusal_with_json_is_a_result():
    code = "import sys; print('{\"passed\": false}'); sys.exit(1)"
    assert run(code, result_codes=(0, 1)) == {"passed": False}


@pytest.mark.parametrize("output", ["", "not json", "[1, 2]"])
def test_a_refusal_without_a_json_object_is_a_failure(output):
    with pytest.raises(StepFailed, match="failed with exit 1"):
        run(f"import sys; print({output!r}); sys.exit(1)", result_codes=(0, 1))


def test_success_without_a_result_is_a_failure():
    with pytest.raises(StepFailed, match="printed no result"):
        run("print('done')")


def test_a_signal_is_named():
    with pytest.raises(StepFailed, match="was killed by SIGKILL"):
        run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


TASK = textwrap.dedent("""
    import sys
    from pipelines.steps import step
    code = "import os, sys, time; sys.stderr.write(f'{os.getpid()}\\\\n'); time.sleep(600)"
    import logging
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    step(command=[sys.executable, "-c", code])
""")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_task_kills_its_command(number, await_true):
    with subprocess.Popen(
        [sys.executable, "-u", "-c", TASK],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as task:
        task.stdout.readline()
        command_pid = int(task.stdout.readline())
        os.kill(task.pid, number)
    await_true(lambda: not Path(f"/proc/{command_pid}").exists(), "the end of the command")


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(steps, "STARTERS", tmp_path / "starters")
    return tmp_path / "state"


def write_index(state, **models):
    (state / "models").mkdir(parents=True)
    (state / "models" / "index.json").write_text(json.dumps(models))


def test_training_starts_from_the_champion_in_the_model_folder(state):
    write_index(state, compact_x4={"champion": "abc"})
    assert champion_bundle("compact_x4") == state / "models" / "by-sha" / "abc"


@pytest.mark.parametrize("models", [None, {}, {"compact_x4": {"champion": None}}])
def test_training_starts_from_the_starter_where_there_is_no_champion(state, models):
    if models is not None:
        write_index(state, **models)
    assert champion_bundle("compact_x4") is None
    (steps.STARTERS / "compact_x4").mkdir(parents=True)
    assert champion_bundle("compact_x4") == steps.STARTERS / "compact_x4"


@pytest.mark.parametrize("champion", [None, "abc"])
def test_fine_tuning_passes_the_champion_only_if_there_is_one(state, monkeypatch, champion):
    passed = []
    monkeypatch.setattr(steps, "step", lambda *arguments: passed.extend(map(str, arguments)) or {})
    write_index(state, compact_x4={"champion": champion})
    fine_tune("compact_x4", "/data/1", "finetune", "finetune by-hand-1")
    bundle = state / "models" / "by-sha" / "abc"
    assert passed == [
        *("train", "compact_x4", "--data", "/data/1"),
        *(() if champion is None else ("--init", str(bundle))),
        *("--profile", "finetune", "--parent-run", "finetune by-hand-1"),
        *("--out", str(state / "runs")),
    ]
