"""How many minutes two nodes save: four networks side by side over a cluster, and one after the other.

One JSON line. A SLURM of two nodes on this machine, as tests/slurm starts it; each repeat trains the
four anew both ways, in turn, and the weights must be the same bytes.
"""
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("slurm", ".", "helpers")]
REPEATS, EPOCHS = 2, 60
# two seeds, and two with other augmentation
SETTINGS = {"launch.engine": "slurm", "cluster.nodes": 2, "cluster.poll_seconds": .5,
            "cluster.minutes": 10, "cluster.gigabytes": 4, "resnet.epochs": EPOCHS,
            "resnet.compare": ["mixcut", "none"]}


def trained(at_most: int) -> tuple: # (seconds, {arm: weights})
    "Train the four with so many in the queue at once."
    from flowers102_study.core.launch import run_jobs
    from flowers102_study.core.settings import open_run
    from flowers102_study.resnet import network_jobs
    run = open_run("smoke", overrides=SETTINGS | {"cluster.at_most": at_most})
    jobs = network_jobs(run)
    for job in jobs: shutil.rmtree(job.out, ignore_errors=True)
    begun = time.time()
    run_jobs(run, jobs, "resnet")
    return time.time() - begun, {j.name: (j.out / "model/model.safetensors").read_bytes() for j in jobs}


def main():
    import cluster
    if not cluster.there(): return print("SLURM is not installed, or may not be started: no line")
    from conftest import copy_of_study
    from flowers102_study import data
    from flowers102_study.core.launch import run_jobs
    from flowers102_study.core.settings import open_run
    os.chdir(copy_of_study(Path(tempfile.mkdtemp())))
    run = open_run("smoke")
    run_jobs(run, [data.data_job(run)], "data")
    nodes, took = cluster.Cluster(), {1: [], 0: []}
    try:
        for _ in range(REPEATS):
            one, two = (trained(at_most) for at_most in took)
            assert one[1] == two[1] and len(one[1]) == 4
            for seconds, found in zip(took.values(), (one, two)): seconds.append(found[0])
    finally: nodes.stop()
    median = {at_most: statistics.median(seconds) for at_most, seconds in took.items()}
    print(json.dumps({"what": "four networks over two nodes, and in turn", "same bytes": True,
                      "one after the other, s": [round(s, 1) for s in took[1]],
                      "side by side, s": [round(s, 1) for s in took[0]],
                      "ratio": round(median[1] / median[0], 2)}))


if __name__ == "__main__": main()
