"""The cluster file and the settings: what is accepted, what is refused, and what a refusal says."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tessera.catalog import catalog_of
from tessera.config import ConfigError, Settings, find_home, load_cluster, parse_cluster

ONE_NODE = """
[[nodes]]
name = "pc2"
[[nodes.devices]]
name = "pc2-cpu"
kind = "cpu"
vram_mib = 1024
"""

WORKER = """
[[workers]]
name = "w"
engine = "preview"
models = ["preview-image"]
node = "pc2"
slots = 1
"""


def test_the_shipped_file_serves_all_six_kinds_and_keeps_noop_off() -> None:
    cluster = load_cluster({})

    models = {model for worker in cluster.enabled_workers() for model in worker.models}
    kinds = ("image", "video", "text", "transcription", "speech", "music")
    assert models == {f"preview-{kind}" for kind in kinds}
    assert cluster.ingress.replicas == 2
    assert cluster.ingress.host == "127.0.0.1"


def test_noop_is_enabled_by_the_environment_only() -> None:
    names = [worker.name for worker in load_cluster({"TESSERA_NOOP": "1"}).enabled_workers()]

    assert names == ["preview-visual", "preview-language", "noop", "noop-gpu"]


def test_the_simulated_device_has_room_for_two_of_the_three_models_that_pretend_to_have_weights() -> None:
    cluster = load_cluster({})
    worker = cluster.worker("noop-gpu")
    sizes = [model.vram_mib for model in catalog_of(worker.models).models]

    device = cluster.device_of(worker)
    assert len(sizes) == 3
    assert sum(sizes[:2]) <= device.vram_mib < sum(sizes)
    assert worker.options["vram_mib"] == device.vram_mib  # what the engine refuses is what the scheduler may plan


def test_another_file_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(ONE_NODE + WORKER)

    cluster = load_cluster({"TESSERA_CLUSTER": str(path)})

    assert [worker.name for worker in cluster.workers] == ["w"]
    assert cluster.device_of(cluster.worker("w")).name == "pc2-cpu"
    assert cluster.worker("w").ray_resources() == {"pc2": 0.01}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[nodes]\n", "not valid TOML"),
        (ONE_NODE + WORKER.replace('"pc2"', '"pc9"'), "Add [[nodes]] with that name"),
        (ONE_NODE + WORKER + WORKER, "worker 'w' is defined 2 times"),
        (ONE_NODE + WORKER + 'device = "gpu0"\n', "which node 'pc2' does not have"),
        (ONE_NODE + WORKER.replace("slots = 1", "slots = 0"), "workers.0.slots"),
        (ONE_NODE + WORKER + "speed = 3\n", "workers.0.speed"),
        (ONE_NODE + WORKER + "run_timeout_s = 0\n", "workers.0.run_timeout_s"),
        (ONE_NODE + WORKER + "no_progress_s = inf\n", "workers.0.no_progress_s"),
        (ONE_NODE + WORKER + "run_timeout_s = 60\n", "Raise run_timeout_s or lower no_progress_s"),
        ('[[nodes]]\nname = "pc2"\n' + WORKER, "names no device and node 'pc2' has 0"),
        ("", "nodes"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_cluster(text, where="cluster.toml")

    assert said in str(refusal.value)
    assert "cluster.toml" in str(refusal.value)


def test_a_missing_cluster_file_says_which_variable_to_correct(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TESSERA_CLUSTER"):
        load_cluster({"TESSERA_CLUSTER": str(tmp_path / "nothing.toml")})


def test_a_fingerprint_follows_the_worker_and_nothing_else() -> None:
    before = parse_cluster(ONE_NODE + WORKER)
    other_ingress = parse_cluster(ONE_NODE + WORKER + "[ingress]\nreplicas = 3\n")
    other_slots = parse_cluster(ONE_NODE + WORKER.replace("slots = 1", "slots = 2"))

    assert before.worker("w").fingerprint() == other_ingress.worker("w").fingerprint()
    assert before.worker("w").fingerprint() != other_slots.worker("w").fingerprint()
    assert before.fingerprint() != other_ingress.fingerprint()


def test_settings_survive_a_round_trip_and_stay_private(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        database_url="postgresql://tessera:hidden@127.0.0.1:5433/tessera",
        artifacts_url=f"file://{tmp_path}/artifacts",
        ports={"gcs": 6379},
        cluster=load_cluster({}),
    )

    settings.save()

    assert Settings.load(tmp_path) == settings
    assert stat.S_IMODE((tmp_path / "platform.json").stat().st_mode) == 0o600
    assert "hidden" not in repr(settings)


def test_settings_of_a_home_that_was_never_started_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make up"):
        Settings.load(tmp_path)


def test_the_home_is_the_named_one_else_the_checkout_around_the_current_folder(tmp_path: Path) -> None:
    checkout = tmp_path / "clone"
    (checkout / "tessera").mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    (checkout / "tessera" / "config.py").touch()

    assert find_home({"TESSERA_HOME": "/srv/tessera"}, tmp_path) == Path("/srv/tessera")
    assert find_home({}, checkout / "tessera") == checkout / ".tessera"
