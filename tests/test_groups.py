"""Limits of control groups, of both versions, wherever above the process they are set."""

import pytest

from shoal.training import executor, groups, memory


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Files as they would be under /sys/fs/cgroup, and the line of /proc/self/cgroup."""
    monkeypatch.setattr(groups, "_ROOT", tmp_path / "root")
    monkeypatch.setattr(groups, "_OWN", tmp_path / "own")

    def make(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return make


V2 = {
    "job/memory.max": "1000\n",
    "job/memory.current": "700\n",
    "job/memory.stat": "anon 500\ninactive_file 200\n",
    "job/step/memory.max": "max\n",
    "job/step/memory.current": "600\n",
    "job/step/memory.stat": "inactive_file 1\n",
    "job/cpu.max": "150000 100000\n",
    "job/step/cpu.max": "max 100000\n",
}
V1 = {
    "memory/memory.limit_in_bytes": "1000\n",
    "memory/memory.usage_in_bytes": "900\n",
    "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 50\n",
    "cpu/cpu.cfs_quota_us": "-1\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "cpu/job/cpu.cfs_quota_us": "250000\n",
    "cpu/job/cpu.cfs_period_us": "100000\n",
}


def test_of_version_2_the_limit_of_a_group_above_holds(system):
    system("0::/job/step\n", V2)
    assert groups.memory_left() == 1000 - 700 + 200
    assert groups.cores_allowed() == 2


def test_of_version_1_each_controller_has_its_groups_and_a_container_its_own_at_the_root(system):
    system("9:memory:/docker/of-the-host\n8:cpu,cpuacct:/job\n1:name=systemd:/x\n0::/\n", V1)
    assert groups.memory_left() == 1000 - 900 + 50
    assert groups.cores_allowed() == 3


def test_without_limits_there_are_none(system):
    system("0::/\n", {"cgroup.controllers": "cpu memory\n"})
    assert groups.memory_left() is groups.cores_allowed() is None


def test_where_there_are_no_groups_there_are_no_limits(system):
    assert groups.memory_left() is groups.cores_allowed() is None


def test_they_are_heeded(system, monkeypatch):
    system("0::/job/step\n", V2 | {"job/cpu.max": "50000 100000\n"})
    assert executor.cores() == 1
    assert memory.free_bytes(executor.torch.device("cpu")) == 500
