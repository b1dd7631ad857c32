"""`demo` and `up` with a real picture server and a fake Airflow."""

from contextlib import contextmanager

import numpy as np
import pytest

from sharpline.local import airflow as airflow_module
from sharpline.local import cli, cycle, demo, loop, report, showcase, up
from sharpline.local.processes import Services
from sharpline.local.stack import Ports, Stack
from superres.common.errors import SharplineError
from superres.common.files import write_json
from superres.image.codecs import Picture, read, write

SCALE = 2


@pytest.fixture(scope="module")
def bundles(tiny_bundle):
    """Two models: one is exact on repeated pixels, the other is 9 levels off."""
    return {
        "good_x2": tiny_bundle(name="good_x2"),
        "poor_x2": tiny_bundle(name="poor_x2", error_levels=9),
    }


@pytest.fixture(scope="module")
def server(bundles, module_picture_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, bundle in bundles.items():
        (folder / name).symlink_to(bundle.root)
    return module_picture_server(folder)


@pytest.fixture
def pictures(tmp_path):
    """A folder with one held-out picture whose pixels are repeated SCALE times a side."""
    small = np.random.default_rng(1).integers(40, 200, (40, 60, 3), dtype=np.uint8)
    large = small.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    write(tmp_path / "pictures" / "squares.png", Picture(rgb_hwc=large))
    return tmp_path / "pictures"


@pytest.fixture
def stack(airflow, server, tmp_path):
    airflow_config = airflow_module.AirflowConfig(
        home=tmp_path,
        port=int(airflow.url.rsplit(":", 1)[1]),
        password="secret",
        jwt_secret="",
        api_secret="",
        fernet_key="",
    )
    with Services(tmp_path / "logs") as services:
        yield Stack(
            state=tmp_path,
            ports=Ports(server=server.port, airflow=airflow_config.port, mlflow=5000),
            services=services,
            airflow_config=airflow_config,
            with_prometheus=False,
            with_alertmanager=False,
            environment={},
        )


@pytest.fixture
def finished_cycle(airflow, bundles, pictures, monkeypatch):
    """A cycle that is finished at the first poll: good_x2 promoted, poor_x2 refused."""
    monkeypatch.setattr(loop, "POLL_SECONDS", 0.0)
    airflow.run("finetune", "second", "success")
    airflow.run("release", "third", "success")
    for index, (name, bundle) in enumerate(bundles.items()):
        passed = name == "good_x2"
        trained = {"model": name, "run_id": f"run-{name}", "seconds": 1.0}
        registered = {"model": name, "version": 2, "bundle_id": bundle.id}
        gate_result = {
            "model": name,
            "version": 2,
            "passed": passed,
            "gain_psnr": 0.5,
            "reasons": [] if passed else ["loses on every slice"],
            "evidence": f"/e/{name}",
        }
        airflow.result("second", "candidate.train", trained, index)
        airflow.result("second", "candidate.register", registered, index)
        airflow.result("third", "decision.gate", gate_result, index)
        if passed:
            airflow.result("third", "decision.promote", {"model": name}, index)
        else:
            airflow.task("third", "decision.promote", "skipped", index)
    airflow.event("second", "sharpline://models/candidates", {"candidates": []}, "third")
    dataset = {"path": str(pictures), "dataset": "d1", "unchanged": False}

    def built():
        first = airflow.triggered[0]["dag_run_id"]
        airflow.run("build_pairs", first, "success")
        airflow.event(first, "sharpline://dataset/pairs", dataset, "second")

    airflow.script.append(built)
    return airflow


@pytest.fixture
def running_stack(stack, monkeypatch):
    """Make `running` yield the test's stack."""

    @contextmanager
    def running(state, preferred, *, with_monitoring, log):
        yield stack

    monkeypatch.setattr(Stack, "await_server", lambda _: None)
    monkeypatch.setattr(demo, "running", running)
    monkeypatch.setattr(up, "running", running)
    monkeypatch.setattr(demo, "SCALE", SCALE)
    return stack


def test_the_demo_shows_what_was_promoted_and_what_refused_and_why(
    running_stack, finished_cycle, capsys
):
    demo.demo(running_stack.state)
    shown, logged = capsys.readouterr()
    assert "good_x2 version 2 promoted, +0.50 dB on all pictures" in shown
    assert "poor_x2 version 2 refused, its champion stays: loses on every slice" in shown
    assert "Y, border 2" in shown
    assert "run-good_x2" in shown
    assert "/e/good_x2" in shown
    assert "waiting until the server serves good_x2 version 2" in logged
    sheet = read(running_stack.state / "demo" / "before_after.png")
    assert (sheet.width, sheet.height) == (2 * 80, 2 * (80 + showcase.LABEL_HEIGHT))


def test_the_demo_fails_where_a_step_failed_after_showing_the_rest(
    running_stack, finished_cycle, capsys
):
    finished_cycle.task("second", "candidate.train", "failed", 2)
    finished_cycle.logs["candidate.train"] = [{"event": "out of memory"}]
    with pytest.raises(cycle.LoopFailed, match=r"(?s)step train 2 failed.*out of memory"):
        demo.demo(running_stack.state)
    assert "version 2 promoted" in capsys.readouterr().out


def test_a_cycle_marks_runs_of_an_interrupted_one_as_failed(running_stack, finished_cycle, capsys):
    finished_cycle.run("finetune", "stale", "running")
    demo.demo(running_stack.state)
    assert finished_cycle.runs["stale"]["state"] == "failed"
    assert "marking the unfinished run finetune stale as failed" in capsys.readouterr().err


def test_a_loop_without_any_decision_fails_with_the_reason(running_stack, airflow, monkeypatch):
    monkeypatch.setattr(loop, "POLL_SECONDS", 0.0)

    def fail():
        first = airflow.triggered[0]["dag_run_id"]
        airflow.run("build_pairs", first, "failed")
        airflow.task(first, "plan", "failed")

    airflow.script.append(fail)
    airflow.logs["plan"] = [{"event": "no space left"}]
    with pytest.raises(cycle.LoopFailed, match=r"(?s)build_pairs: step plan.*no space left"):
        demo.demo(running_stack.state)


def test_a_promoted_model_that_is_not_served_is_an_error(running_stack, monkeypatch):
    monkeypatch.setattr(cycle, "SERVED_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(SharplineError, match=r"good_x2 was promoted, but the server did not"):
        cycle.await_served(running_stack, "good_x2", "f" * 64)


def test_the_servers_output_is_scored_under_the_datasets_protocol(server, pictures, bundles):
    pair, protocol = showcase.held_out(pictures, SCALE)
    served = showcase.enhance(server.url, "poor_x2", pair, protocol)
    assert served.bundle_id == bundles["poor_x2"].id
    assert served.picture == "squares"
    assert served.enhanced.protocol == served.bicubic.protocol == protocol
    assert (served.output.height, served.output.width) == (80, 120)
    assert served.megapixels == pytest.approx(0.0096)
    assert served.seconds > 0


def test_the_most_detailed_square_is_found():
    picture = np.full((60, 90, 3), 128, dtype=np.uint8)
    picture[30:50, 60:80] = np.random.default_rng(0).integers(0, 255, (20, 20, 3))
    top, left = showcase.most_detailed_square(picture, 24)
    assert top <= 31
    assert top + 24 >= 49
    assert left <= 61
    assert left + 24 >= 79


def test_the_square_may_be_the_whole_picture():
    assert showcase.most_detailed_square(np.zeros((8, 8, 3), np.uint8), 8) == (0, 0)


def interrupt_after(polls, monkeypatch, stack):
    """Raise KeyboardInterrupt when `up` checks its services for the given time."""
    remaining = iter(range(polls))

    def check(_):
        if next(remaining, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Services, "check", check)
    monkeypatch.setattr(up, "POLL_SECONDS", 0.0)


def test_up_prints_every_address_and_how_to_log_in(running_stack, monkeypatch, capsys):
    interrupt_after(3, monkeypatch, running_stack)
    write_json(running_stack.state / "datasets" / "d1" / "dataset.json", {})
    up.up(running_stack.state, with_loop=True)
    shown, logged = capsys.readouterr()
    assert f"{running_stack.server_url}/docs" in shown
    assert f"{running_stack.airflow_config.url}  user sharpline, password secret" in shown
    assert running_stack.mlflow_url in shown
    assert "apt-get install prometheus" in shown
    assert logged.endswith("stopped\n")


def test_up_runs_the_first_cycle_on_an_empty_state(
    running_stack, finished_cycle, monkeypatch, capsys
):
    interrupt_after(50, monkeypatch, running_stack)
    up.up(running_stack.state, with_loop=True)
    assert "good_x2 version 2 promoted, +0.50 dB" in capsys.readouterr().err


def test_up_without_the_loop_triggers_no_run(running_stack, airflow, monkeypatch):
    interrupt_after(3, monkeypatch, running_stack)
    up.up(running_stack.state, with_loop=False)
    assert airflow.triggered == []


def test_up_keeps_running_when_the_first_cycle_fails(running_stack, airflow, monkeypatch, capsys):
    interrupt_after(50, monkeypatch, running_stack)
    monkeypatch.setattr(
        cycle, "run_cycle", lambda *_: (_ for _ in ()).throw(cycle.LoopFailed("plan"))
    )
    up.up(running_stack.state, with_loop=True)
    assert "plan" in capsys.readouterr().err


def test_the_commands_pass_the_state_folder(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path))
    monkeypatch.setattr(demo, "demo", calls.append)
    monkeypatch.setattr(up, "up", lambda state, with_loop: calls.append((state, with_loop)))
    assert cli.demo([]) == cli.up(["--no-loop"]) == 0
    assert calls == [tmp_path, (tmp_path, False)]


def test_a_refusal_lists_every_reason():
    decision = report.Decision(
        model="a",
        version=3,
        bundle_id="b",
        mlflow_run=None,
        train_seconds=1.0,
        promoted=False,
        gain_psnr=None,
        reasons=("worse on faces", "slower"),
        evidence=None,
    )
    assert report.decision_text(decision).endswith(
        "refused, its champion stays: worse on faces; slower"
    )
