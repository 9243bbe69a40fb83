"""The compiling process: a question as JSON on stdin, the answer or what was wrong as the last line of stdout."""

from __future__ import annotations

import dataclasses
import json
import sys

from uio2.pipeline.stage import StageError


def main() -> None:
    from uio2.train.hardware.question import Question
    from uio2.train.hardware.step import answer

    try:
        found = dataclasses.asdict(answer(Question.from_json(json.load(sys.stdin))))
    except StageError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
