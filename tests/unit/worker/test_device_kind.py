"""What devices of the same speed have in common."""

import torch

from collodion.worker import device_kind as module
from collodion.worker.device_kind import device_kind


def test_a_cpu_is_known_by_its_model(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: A Fast One: 9000\nmodel name\t: another\n")
    monkeypatch.setattr(module, "_CPU_INFO", info)
    assert device_kind("cpu") == "cpu: A Fast One: 9000"


def test_a_cpu_of_no_name_is_known_by_its_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CPU_INFO", tmp_path / "absent")
    assert device_kind("cpu").startswith("cpu: ")
    assert device_kind("cpu") != "cpu: "


def test_gpus_are_known_by_their_model_and_not_by_their_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda:0": "H200", "cuda:1": "H200"}.__getitem__)
    assert device_kind("cuda:0") == device_kind("cuda:1") == "H200"


def test_simulated_devices_are_of_one_kind():
    assert device_kind("simulated") == "simulated"
