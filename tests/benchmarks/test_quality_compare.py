"""Two runs of the bench compared: the same trainings in pairs, and what cannot be compared is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import compare


def results(strengths: dict[tuple[str, str], float], model: str = "m", method: str = "ours") -> dict[str, Any]:
    """A run whose trainings reach these style strengths and lose nothing."""
    jobs = {}
    for (operator, pair), strength in strengths.items():
        point = {"structure": 1.0, "accuracy": 1.0, "leak": 0.0}
        curves = {mode: [{"at": 1.0, **point, "strength": strength}] for mode in ("lora", "guidance")}
        base = {**point, "strength": 0.0}
        jobs[f"{operator}-{pair}"] = {
            "method": method, "operator": operator, "pair": pair, "seed": 0, "base": base, "curves": curves,
        }  # fmt: skip
    return {"model": model, "jobs": jobs}


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *runs: dict[str, Any]) -> None:
    files = [tmp_path / f"{number}.json" for number in range(len(runs))]
    for file, one in zip(files, runs, strict=True):
        file.write_text(json.dumps(one), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, files)])
    compare.main()


def test_only_trainings_of_both_runs_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results({("ink", "house"): 0.2, ("pixel", "mug"): 0.2, ("poster", "cat"): 0.9})
    run(tmp_path, monkeypatch, before, results({("ink", "house"): 0.4, ("pixel", "mug"): 0.3}))
    lines = capsys.readouterr().out.splitlines()
    assert "| all | lora | 2 | 0.200 → 0.350 | +75% (+50% to +100%) | 0.200 → 0.350 |" in lines
    assert "| reserved | guidance | 1 | 0.200 → 0.300 | +50% (+50% to +50%) | 0.200 → 0.300 |" in lines
    assert not any("poster" in line for line in lines)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (results({("ink", "house"): 0.4}, model="another"), "different embedded models"),
        (results({("ink", "house"): 0.4}, method="plain"), "no training of it in common"),
    ],
)
def test_runs_that_do_not_compare_are_refused(
    other: dict[str, Any],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, monkeypatch, results({("ink", "house"): 0.2}), other)
    assert said in capsys.readouterr().err
