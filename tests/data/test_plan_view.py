"""A plan as text and as a picture."""

import numpy as np
from PIL import Image

from ccl_jax.data.plan import PlanSettings, make_plan
from ccl_jax.data.plan_view import draw_plan, format_plan


def test_text_and_picture(tmp_path):
    lengths = np.array([16, 8, 4, 4] * 8)
    task_ids = np.array([0, 1, 1, 1] * 8)
    settings = PlanSettings(
        (8, 16), 32, epochs=1, mix={'document': 1, 'span': 1}, mix_end={'document': 3, 'span': 1}, mix_by='tokens'
    )
    plan = make_plan(lengths, task_ids, np.full(32, 2), settings)
    lines = [line.split() for line in format_plan(plan, 'a plan').splitlines()]
    assert lines[0][:4] == ['a', 'plan:', '32', 'examples,']
    # Row length, rows, positions, steps: all rows are full but those of the last step.
    of_bucket = {bucket: int((plan.step_lengths == bucket).sum()) for bucket in (8, 16)}
    assert lines[2][:4] == ['8', '4', '32', str(of_bucket[8])]
    assert lines[3][:4] == ['16', '2', '32', str(of_bucket[16])]
    text = format_plan(plan, 'a plan')
    assert 'asked document 50.0%, span 50.0%' in text
    assert 'to document 75.0%, span 25.0%' in text
    draw_plan(plan, lengths, task_ids, tmp_path / 'new' / 'plan.png')
    with Image.open(tmp_path / 'new' / 'plan.png') as image:
        assert image.size[0] > 1000


def test_a_bucket_without_steps_has_no_fill():
    plan = make_plan(np.array([16]), np.array([0]), np.array([2]), PlanSettings((8, 16), 16, epochs=1))
    assert format_plan(plan, 'a plan').splitlines()[2].split() == ['8', '2', '16', '0']
