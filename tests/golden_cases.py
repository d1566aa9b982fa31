"""Cases that were scored by the references' own code, see evaluation/golden/README.md."""

import json
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "evaluation" / "golden"
NOT_IMPLEMENTED = {
    "vlmevalkit": "a third toolkit; of it only MMBench's exact matching is LLaVA's path, see test_golden_mmbench.py",
    "lmms_eval_2024_12": "lmms-eval before its scorer was corrected, not comparable with today's",
    "official_vqa_pre2021": "VQA's script before 2021",
}


@cache
def cases(file: str) -> list[dict]:
    """All rows of a file: id, kind, input, expected."""
    return [json.loads(line) for line in (FOLDER / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]


def each_key(file: str, kind: str = "sample"):
    """Parametrise a test by each key that each row expects: ``given``, ``key`` and ``expected``."""
    rows = [row for row in cases(file) if row["kind"] == kind]
    parameters = [
        pytest.param(row["input"], key, value, id=f"{row['id']}-{key}")
        for row in rows
        for key, value in row["expected"].items()
        if key not in NOT_IMPLEMENTED
    ]
    return pytest.mark.parametrize(("given", "key", "expected"), parameters)
