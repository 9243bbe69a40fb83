"""A stage that says which process it is, for tests of launchers."""

from __future__ import annotations

import os
import time

from tests.pipeline.toy_stages import ToySpec
from uio2.pipeline.stage import StageContext, StageError, StageType


def run(spec: ToySpec, context: StageContext) -> dict:
    """Every process leaves its number in the scratch they share; the first waits for all and publishes them."""
    number, count = (int(os.environ.get(f"UIO2_{key}", d)) for key, d in (("PROCESS_ID", "0"), ("NUM_PROCESSES", "1")))
    print(f"process {number} of {count}", flush=True)
    context.progress(1, 2, "half")
    if spec.fail == str(number):
        raise StageError(f"process {number} cannot go on")
    time.sleep(spec.sleep)
    (context.work / f"{number}.txt").write_text(os.environ.get("UIO2_COORDINATOR", "").rpartition(":")[0])
    while len(list(context.work.glob("*.txt"))) < count:
        time.sleep(0.05)
    (context.out / "data.txt").write_text(spec.text)
    context.metric(1, {"loss": 1.0})
    return {"seen": sorted(path.name for path in context.work.glob("*.txt"))[:count], "process": number}


ECHO = StageType(name="echo", kind="raw", spec=ToySpec, run="tests.pipeline.launch_stage:run")
