"""Name the machine that something was measured on."""

import os
import platform

import torch


def describe_machine(device: torch.device | str = "cpu") -> str:
    """Name the GPU, if `device` is one, the processor, the cores this process may use, and the version of torch."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    host = f"{name} ({platform.machine()}), {cores} cores, {threads} threads, torch {torch.__version__}"
    device = torch.device(device)
    return f"{torch.cuda.get_device_name(device)}; {host}" if device.type == "cuda" else host
