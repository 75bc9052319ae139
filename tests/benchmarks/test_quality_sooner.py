"""Time to quality: when a curve is at the goal, and what the page says of a race that is lost."""

from benchmarks.quality.sooner import is_there, page

BASE = {"strength": 0.0, "structure": 1.0, "accuracy": 1.0, "leak": 0.0}
GOAL = {"strength": 0.3, "structure": 0.8, "accuracy": 0.9, "leak": 0.1}


def test_the_goal_is_strength_with_structure_kept_and_accuracy_and_leak_no_worse():
    assert is_there([BASE, {**GOAL, "strength": 0.35}], GOAL)
    for worse in ({"strength": 0.29}, {"structure": 0.7}, {"accuracy": 0.89}, {"leak": 0.11}):
        assert not is_there([BASE, {**GOAL, **worse}], GOAL)


def test_the_page_says_which_goals_are_not_reached():
    rival = {"steps": 100, "seconds": 50.0, "points": []}
    job = {"style": "ink", "pair": "house", "rival": rival, "goal": GOAL}
    runs = [{"steps": 30, "seconds": 20.0, "points": [BASE, GOAL]}]
    missed = [{"steps": 120, "seconds": 90.0, "points": [BASE]}]
    text = page({"model": "m", "jobs": {"a": {**job, "ours": {"ours": runs, "ours, pseudo-pairs": missed}}}})
    assert "20, 0.40" in text and "not by 120" in text
