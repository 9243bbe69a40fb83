"""Entry of the flex template: stages the Dataflow job of `uio2 build DATASET` and ends; the service starts it.

Its parameters are those of `metadata.json`; all other flags are Beam's own and are handed on. The dataset is finished
by the same `uio2 build` with the same `--work` anywhere: it finds the shards that the job wrote (`docs/dataflow.md`).
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence

from beam_jobs.builders import ROLES
from beam_jobs.runner import VARIABLE
from uio2.cli.main import main as uio2


def main(argv: Sequence[str]) -> int:
    """Exit status 0 once the job is staged."""
    parser = argparse.ArgumentParser(description="Stages the Dataflow job of a dataset.", allow_abbrev=False)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--template_location", required=True)
    for role in ROLES:
        parser.add_argument(f"--{role}", default="")
    parser.add_argument("--num_shards", default="")
    parser.add_argument("--limit", default="")
    mine, flags = parser.parse_known_args(argv)
    flags = [flag for flag in flags if not flag.startswith("--runner")]
    os.environ[VARIABLE] = shlex.join(
        ["--runner=DataflowRunner", f"--template_location={mine.template_location}", *flags]
    )
    os.environ["UIO2_MLFLOW"] = "off"
    command = ["build", mine.dataset, "--work", mine.work]
    for name in (*ROLES, "num_shards", "limit"):
        if value := getattr(mine, name):
            command += [f"--{name}", value]
    with tempfile.TemporaryDirectory() as store:
        uio2([*command, "--store", store])
    # Staging ends the build before its dataset is there, so its own status says nothing; the template does.
    from beam_jobs import work_files

    return 0 if work_files.exists(mine.template_location) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
