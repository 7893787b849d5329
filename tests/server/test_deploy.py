"""The manifest for Kubernetes starts our application with settings that it knows, where its files are mounted."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from causvid.loading.spec import ModelSpec
from causvid.server.replicas import Fleet
from causvid.server.security import check_settings
from causvid.server.settings import ServerSettings

MANIFEST = Path(__file__).parents[2] / "deploy" / "kuberay.yaml"
yaml: Any = pytest.importorskip("yaml")


@pytest.fixture
def documents() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))}


def test_serve_starts_our_application_with_settings_it_accepts(documents: dict[str, Any]) -> None:
    config = yaml.safe_load(documents["RayService"]["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    module, builder = application["import_path"].split(":")
    assert callable(getattr(import_module(module), builder))
    args = dict(application["args"])
    fleet, device = Fleet.make(**args.pop("fleet")), args.pop("device")
    ModelSpec.make(**args.pop("model", {}))
    settings = ServerSettings.make(**{"token": "a" * 16, **args})
    check_settings(settings)
    assert fleet.options(settings, gpu=device == "cuda")["autoscaling_config"]["max_replicas"] == fleet.most


def test_every_pod_has_the_folder_and_the_token_and_room_for_one_replica(documents: dict[str, Any]) -> None:
    spec = documents["RayService"]["spec"]
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    cluster = spec["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    fleet = application["args"]["fleet"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (fleet["replicas"], fleet["most"])
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        assert mount["name"] == volume["name"] and mount["mountPath"] == application["args"]["folder"]
        assert volume["persistentVolumeClaim"]["claimName"] == documents["PersistentVolumeClaim"]["metadata"]["name"]
        assert "CAUSVID_TOKEN" in {variable["name"] for variable in container["env"]}
