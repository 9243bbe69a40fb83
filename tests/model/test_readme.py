"""The README's lines run as they stand there, on a checkpoint in the published layout."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.model.reference import GOLDEN, needs_golden

README = Path(__file__).resolve().parents[2] / "README.md"


@needs_golden
def test_a_published_checkpoint_generates_in_the_readme_s_lines(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (code,) = [block for block in blocks if "huggingface" in block]
    assert len([line for line in code.splitlines() if line]) <= 10
    (tmp_path / "uio2-large").symlink_to(GOLDEN / "huggingface" / "fixture_tiny")
    environment = {**os.environ, "PYTHONPATH": str(README.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(1, 16, 16, 3)"
    tokens = [int(number) for number in re.findall(r"\d+", done.stdout.rpartition("(")[0])]
    assert 1 <= len(tokens) <= 16
    assert max(tokens) < 512
