"""`plan`: text and pictures of every plan that a run has."""

from types import SimpleNamespace

import numpy as np

from ccl_jax.data.plan import PlanSettings, make_plan
from ccl_jax.pipeline import plan as verb


def test_every_plan_is_printed_and_drawn(tmp_path, monkeypatch):
    store = SimpleNamespace(lengths=np.array([16, 8, 4, 4]), task_ids=np.array([0, 1, 1, 1]))
    plan = make_plan(store.lengths, store.task_ids, np.full(4, 2), PlanSettings((8, 16), 16, epochs=1))
    runs = {'base model': (store, plan), 'training': (store, plan)}
    monkeypatch.setattr(verb, 'prepare', lambda config, workdir: runs)
    text = verb.plan_run(None, tmp_path)
    for what, picture in (('base model', tmp_path / 'base' / 'plan.png'), ('training', tmp_path / 'plan.png')):
        assert f'plan of the {what}: 4 examples, {plan.steps} steps' in text
        assert f'picture: {picture}' in text
        assert picture.read_bytes().startswith(b'\x89PNG')
