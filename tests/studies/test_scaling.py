"""The law against points drawn from a known one, the best size against its formula, and runs read from disk."""

import json

import matplotlib.image
import numpy as np
import pytest

from ccl_jax.errors import UserError
from ccl_jax.studies import scaling
from ccl_jax.studies.scaling_law import Law, Point, best_size, bootstrap_laws, fit_cost, fit_law, predict

TRUE = Law(E=0.5, A=40.0, B=300.0, alpha=0.35, beta=0.45)
SIZES, TOKENS = (5e4, 1e5, 2e5, 4e5, 8e5), (1e5, 3e5, 9e5)


def points(noise=0.0):
    random = np.random.default_rng(0)
    return [
        Point(f'{n:.0f}-{d:.0f}', n, d, 6 * n * d, float(TRUE.loss(n, d) * np.exp(random.normal(0, noise))))
        for n in SIZES
        for d in TOKENS
    ]


def test_a_law_is_found_again_from_its_own_points():
    law = fit_law(points())
    for field in ('E', 'A', 'B', 'alpha', 'beta'):
        assert getattr(law, field) == pytest.approx(getattr(TRUE, field), rel=0.02)


def test_intervals_hold_the_true_law_and_grow_with_the_noise():
    widths = []
    for noise in (0.002, 0.02):
        measured = points(noise)
        law = fit_law(measured)
        drawn = bootstrap_laws(measured, law, samples=60)
        foretold = predict(law, drawn, 1.6e6, 9e5)
        assert foretold.low <= foretold.loss <= foretold.high
        assert foretold.low <= TRUE.loss(1.6e6, 9e5) <= foretold.high
        widths.append(foretold.high - foretold.low)
    assert widths[1] > 3 * widths[0]


def test_the_best_size_follows_the_formula_of_the_paper():
    # Hoffmann et al. 2022, eq. 4, for C = 6 N D: N = G (C / 6)^(beta / (alpha + beta)),
    # G = (alpha A / (beta B))^(1 / (alpha + beta)).
    cost = fit_cost(points())
    assert (cost.scale, cost.exponent) == (pytest.approx(6), pytest.approx(1))
    flops = 1e12
    total = TRUE.alpha + TRUE.beta
    expected = (TRUE.alpha * TRUE.A / (TRUE.beta * TRUE.B)) ** (1 / total) * (flops / 6) ** (TRUE.beta / total)
    assert best_size(TRUE, cost, flops, 1e3, 1e8) == pytest.approx(expected, rel=0.01)


def test_too_few_runs_are_refused():
    with pytest.raises(UserError, match='at least 6 finished runs'):
        fit_law(points()[:5])
    with pytest.raises(UserError, match='of 1 and'):
        fit_law([Point('x', 1e5, d, d, 1.0) for d in range(1, 9)])


def write_run(folder, *, size, tokens, loss, steps=10, done=10):
    """What a workdir holds of a run, as `train` leaves it."""
    from ccl_jax.config import default_config

    (folder / 'data').mkdir(parents=True)
    config = default_config()
    config.base.enabled = True
    (folder / 'config.json').write_text(json.dumps(config.to_dict()))
    hf = folder / 'base' / 'hf'
    hf.mkdir(parents=True)
    (hf / 'config.json').write_text(
        json.dumps(
            {
                'model_type': 'llama',
                'vocab_size': 512,
                'hidden_size': size,
                'intermediate_size': 2 * size,
                'num_hidden_layers': 2,
                'num_attention_heads': 2,
                'num_key_value_heads': 2,
                'head_dim': size // 2,
                'max_position_embeddings': 128,
                'rms_norm_eps': 1e-5,
                'rope_theta': 10000.0,
                'hidden_act': 'silu',
                'tie_word_embeddings': True,
            }
        )
    )
    stage = {'steps': steps, 'tokens': {'document': {'prompt': tokens - 10, 'target': 10}}}
    stage['flops'] = {'forward': 2.0 * tokens * size, 'backward': 4.0 * tokens * size}
    (folder / 'cost.json').write_text(json.dumps({'stages': {'training': stage}}))
    (folder / 'dev.jsonl').write_text(json.dumps({'step': done - 1, 'loss': loss, 'document': loss}) + '\n')


def parameters(size):
    # Embedding (tied), per layer 4 projections, 3 of the feed-forward block and 2 norms, and the last norm.
    return 512 * size + 2 * (4 * size**2 + 3 * 2 * size**2 + 2 * size) + size


def test_runs_are_read_the_unfinished_named_and_the_largest_held_out(tmp_path):
    for size in (8, 16, 32, 64):
        for tokens in (1000, 10_000, 100_000):
            loss = float(TRUE.loss(parameters(size), tokens))
            write_run(tmp_path / f'size={size}' / f'tokens={tokens}', size=size, tokens=tokens, loss=loss)
    write_run(tmp_path / 'broken' / 'seed0', size=8, tokens=500, loss=3.0, done=4)
    study = scaling.study_runs([tmp_path])
    assert {point.parameters for point in study.points} == {parameters(size) for size in (8, 16, 32, 64)}
    assert [reason for _, reason in study.unfinished] == ['it is not finished']
    assert len(study.held_out.predictions) == 3
    assert study.held_out.error < 0.02
    assert study.cost.exponent > 0
    text = scaling.report(study)
    assert 'it is not finished' in text
    assert 'mean error' in text
    record = json.loads(json.dumps(scaling.to_json(study)))
    assert record['law']['alpha']['low'] <= record['law']['alpha']['value'] <= record['law']['alpha']['high']
    scaling.draw(study, tmp_path / 'law.png')
    assert matplotlib.image.imread(tmp_path / 'law.png').shape[1] == 1320


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match='there is no run'):
        scaling.study_runs([tmp_path])
