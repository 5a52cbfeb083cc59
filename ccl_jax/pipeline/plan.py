"""`plan`: the batch plan of a run, before any step is made."""

import functools
from pathlib import Path

from ccl_jax.config import Config
from ccl_jax.data.plan_view import draw_plan, format_plan
from ccl_jax.pipeline.train import prepare
from ccl_jax.pipeline.workdir import on_process_zero


def plan_run(config: Config, workdir: Path) -> str:
    """Prepares what is missing and returns the report of the plan; draws `<workdir>/plan.png`.

    Where the config makes its own base model, that has a plan and a picture
    (`base/plan.png`), too.

    Raises:
        UserError: the source is missing, a document does not fit, or the settings do not.
    """
    texts = []
    for what, (store, plan) in prepare(config, workdir).items():
        picture = workdir / ('plan.png' if what == 'training' else 'base/plan.png')
        draw = functools.partial(draw_plan, plan, store.lengths, store.task_ids, picture)
        on_process_zero(draw, picture)
        texts.append(f'{format_plan(plan, f"plan of the {what}")}\npicture: {picture}')
    return '\n\n'.join(texts)
