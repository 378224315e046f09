"""What can never be placed is refused instead of waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayonale import cluster


def test_more_than_the_machine_has_is_refused(ray_session: None) -> None:
    cluster.require("training workers", 2, {"CPU": 1})
    with pytest.raises(
        ValueError, match=r"training workers do not fit this machine: 3 x 1 CPU asked for, 2 there"
    ):
        cluster.require("training workers", 3, {"CPU": 1})
    with pytest.raises(ValueError, match="1 x 1 GPU asked for, 0 there"):
        cluster.require("training workers", 1, {"GPU": 1})


def test_outputs_of_a_submitted_job_outlive_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert cluster.lasting("runs") == "runs"
    package = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    package.mkdir(parents=True)
    monkeypatch.chdir(package)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cluster.lasting("runs") == f"{tmp_path}/home/runs"
    assert "the job's own folder is deleted after it" in caplog.text
    assert cluster.lasting("/data/runs") == "/data/runs"
    assert cluster.lasting("s3://bucket/runs") == "s3://bucket/runs"
