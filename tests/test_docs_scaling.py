"""The files of examples/cluster, which docs/scaling.md hands out: are they well formed?"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from retiarii.cli import app

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "examples" / "cluster"
PAGE = (ROOT / "docs" / "scaling.md").read_text()


def _documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def test_the_page_hands_out_every_file_and_no_other() -> None:
    named = set(re.findall(r"examples/cluster/([\w.]+)", PAGE))
    assert named == {path.name for path in CLUSTER.iterdir()}


def test_ray_up_takes_the_cluster() -> None:
    """By Ray's own schema, with the defaults of its provider filled in."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = _documents("aws.yaml")
    prepared = prepare_config(config)
    validate_config(prepared)
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert sum(t.get("max_workers", 0) for t in types.values()) >= config["max_workers"]
    assert "ray start --head" in " ".join(prepared["head_start_ray_commands"])
    with pytest.raises(Exception, match="nonsense"):
        validate_config({**prepared, "nonsense": 1})


def test_the_slurm_script() -> None:
    file = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", str(file)], check=True)
    lines = file.read_text().splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH ")]
    # sbatch reads them up to the first command, and no further.
    first = next(i for i, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    assert all(lines.index(each) < first for each in directives)
    found = {}
    for each in directives:
        match = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", each)
        assert match is not None, each
        found[match[1]] = match[2]
    assert found["ntasks-per-node"] == "1"
    assert re.fullmatch(r"\d+:\d\d:\d\d", found["time"])
    assert {"nodes", "cpus-per-task", "gpus-per-node", "signal", "exclusive"} <= found.keys()


def test_the_slurm_script_lets_the_search_finish_its_epoch(tmp_path: Path) -> None:
    """It runs, with commands that only note how they were called, up to the signal at its end."""
    tools = tmp_path / "bin"
    tools.mkdir()
    note = f'echo "$(basename "$0") $*" >> {tmp_path}/called\n'
    scripts = {
        "scontrol": "printf 'node1\\nnode2\\n'\n",
        "srun": note,
        "sleep": "",
        "seq": "echo 1\n",
        "retiarii": note
        + "trap 'exit 130' INT\nkill -INT $PPID\nwhile true; do /bin/sleep 0.1; done\n",
    }
    for name, text in scripts.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}")
        (tools / name).chmod(0o755)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm.sh")],
        cwd=tmp_path,
        env={
            "PATH": f"{tools}:/usr/bin:/bin",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_ID": "123456",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_GPUS_ON_NODE": "4",
        },
        timeout=60,
    )
    assert done.returncode == 130
    called = (tmp_path / "called").read_text()
    assert "ray start --head --block --port=23456" in called
    assert "ray start --block --address=node1:23456" in called
    assert "--num-cpus 16 --num-gpus 4" in called
    assert "--executor ray --out runs/mine" in called


def test_the_kubernetes_job() -> None:
    claim, job = _documents("kuberay.yaml")
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes"} <= spec.keys()
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]["template"]["spec"]
    (claimed,) = [v["persistentVolumeClaim"] for v in head["volumes"] if v["name"] == "runs"]
    assert claimed["claimName"] == claim["metadata"]["name"]
    mounts = {m["name"]: m["mountPath"] for m in head["containers"][0]["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in head["volumes"]}
    assert f"{mounts['runs']}/" in spec["entrypoint"]
    assert f"{mounts['space']}/space.py" in spec["entrypoint"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["image"] == head["containers"][0]["image"]
    # Of the version that the project is tried with.
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]


def test_every_command_on_the_page_and_in_the_files_has_options_that_there_are() -> None:
    import typer

    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    known = {option for parameter in run.params for option in parameter.opts}
    texts = [PAGE, *(path.read_text() for path in CLUSTER.iterdir())]
    commands = [c for text in texts for c in re.findall(r"retiarii run [^`'#\n]*", text)]
    assert len(commands) >= 7
    for command in commands:
        words = shlex.split(command.rstrip("\\& "))
        assert {w.partition("=")[0] for w in words if w.startswith("--")} <= known, command
