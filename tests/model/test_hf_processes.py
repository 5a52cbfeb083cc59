"""Real processes: each reads its own bytes and all take part in an export; one that is killed leaves no half model."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import init_decoder, load_decoder, save_decoder

ROOT = Path(__file__).parents[2]
ARCHITECTURE = Architecture(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=64,
)

# One of two processes with four devices each.
PROCESS = """
import json, logging, re, sys
import jax
port, index = map(int, sys.argv[1:3])
folder = sys.argv[3]
axes = json.loads(sys.argv[4])
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 4)
jax.distributed.initialize(f'127.0.0.1:{port}', 2, index)
import numpy as np
from flax import nnx
from ccl_jax.errors import UserError
from ccl_jax.model.hf import load_decoder, save_decoder
from ccl_jax.training.mesh import make_mesh, sharding_for

mesh = make_mesh(**axes)
records = []
handler = logging.Handler()
handler.emit = lambda record: records.append(record.getMessage())
logging.getLogger('ccl_jax').addHandler(handler)
logging.getLogger('ccl_jax').setLevel(logging.INFO)
decoder = load_decoder(f'{folder}/model', sharding_for=lambda path, shape: sharding_for(mesh, path, shape))
copied = [int(found[1]) for found in map(re.compile('read ([0-9]+) bytes').search, records) if found]
saved = {}
for path, variable in nnx.to_flat_state(nnx.state(decoder)):
    for shard in variable[...].addressable_shards:
        bounds = [part.indices(size)[:2] for part, size in zip(shard.index, variable.shape)]
        saved['/'.join(path) + '|' + json.dumps(bounds)] = np.asarray(shard.data)
np.savez(f'{folder}/{index}.npz', **saved)

save_decoder(decoder, f'{folder}/exported', max_shard_bytes=5000)

def outcome(**arguments):
    try:
        save_decoder(decoder, **arguments)
    except Exception as error:
        return f'{type(error).__name__}: {error}'

class Full:
    def save_pretrained(self, folder):
        raise OSError(28, 'No space left on device')

print(json.dumps({
    'copied': copied,
    'taken': outcome(folder=f'{folder}/exported'),
    'full': outcome(folder=f'{folder}/full', tokenizer=Full()),
}))
"""


def run_two(folder, axes):
    """Returns what each process printed."""
    port = str(20_000 + np.random.default_rng().integers(20_000))
    started = [
        subprocess.Popen(
            [sys.executable, '-c', PROCESS, port, str(index), str(folder), json.dumps(axes)],
            env={'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin'},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    reports = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-3000:]
            reports.append(json.loads(output.splitlines()[-1]))
    finally:
        for process in started:
            process.kill()
    return reports


def read_folder(folder):
    return {name: array for file in folder.glob('*.safetensors') for name, array in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize('axes', [{'fsdp': 4, 'tensor': 2}, {'replica': 2, 'fsdp': 4}], ids=['divided', 'copied'])
def test_two_processes_read_their_own_bytes_and_export_together(axes, tmp_path):
    decoder = init_decoder(ARCHITECTURE, seed=0)
    save_decoder(decoder, tmp_path / 'model', max_shard_bytes=5000)
    source = read_folder(tmp_path / 'model')
    assert len(list((tmp_path / 'model').glob('*.safetensors'))) > 3
    reports = run_two(tmp_path, axes)
    # Matrices are halved between the processes, norms are whole on every device.
    matrices, norms = (sum(array.nbytes for array in source.values() if array.ndim == n) for n in (2, 1))
    own = (matrices // 2 if 'replica' not in axes else matrices) + norms
    assert [report['copied'] for report in reports] == [[own], [own]]
    covered = 0
    for index in range(2):
        for key, content in np.load(tmp_path / f'{index}.npz').items():
            path, bounds = key.split('|')
            parameter = decoder
            for name in path.split('/'):
                parameter = getattr(parameter, name)
            area = tuple(slice(*part) for part in json.loads(bounds))
            np.testing.assert_array_equal(content, parameter[...][area], err_msg=key)
            covered += content.size
    assert covered >= ARCHITECTURE.parameter_count()

    exported = read_folder(tmp_path / 'exported')
    assert len(list((tmp_path / 'exported').glob('*.safetensors'))) > 3
    assert set(exported) == set(source)
    for name, array in source.items():
        np.testing.assert_array_equal(exported[name], array, strict=True)
    assert all('exists already' in report['taken'] or 'process 0' in report['taken'] for report in reports)
    assert reports[0]['full'].startswith('OSError')
    assert reports[1]['full'].startswith('UserError')
    assert 'could not be written by process 0' in reports[1]['full']
    assert not (tmp_path / 'full').exists()


# Ends the way a full quota with the kernel's default action, or a kill, ends a process: nothing is cleaned up.
KILLED = """
import os, resource, signal, sys
from ccl_jax.model.hf import load_decoder, save_decoder

class Killer:
    def save_pretrained(self, folder):
        os.kill(os.getpid(), signal.SIGKILL)

decoder = load_decoder(sys.argv[1])
if sys.argv[3] == 'in a file':
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
save_decoder(decoder, sys.argv[2], tokenizer=Killer(), max_shard_bytes=5000 if sys.argv[3] == 'at the end' else 10**9)
"""


@pytest.mark.parametrize(('where', 'signal_number'), [('in a file', signal.SIGXFSZ), ('at the end', signal.SIGKILL)])
def test_a_killed_export_leaves_no_half_model(where, signal_number, tmp_path):
    decoder = init_decoder(ARCHITECTURE, seed=0)
    save_decoder(decoder, tmp_path / 'model')
    command = [sys.executable, '-c', KILLED, str(tmp_path / 'model'), str(tmp_path / 'exported'), where]
    environment = {'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin', 'JAX_PLATFORMS': 'cpu'}
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal_number, killed.stderr[-2000:]
    assert not (tmp_path / 'exported').exists()
    # What is left is no model either.
    leftover = list(tmp_path.glob('*.partial'))
    assert [path.name for path in leftover] == ['exported.partial']
    assert any(leftover[0].iterdir())
    if where == 'in a file':
        with pytest.raises(UserError):
            load_decoder(leftover[0])
    save_decoder(decoder, tmp_path / 'exported')
    assert {path.name for path in tmp_path.iterdir()} == {'model', 'exported'}
    assert {path.name for path in (tmp_path / 'exported').iterdir()} == {
        'config.json',
        'generation_config.json',
        'model.safetensors',
    }
    for name, array in read_folder(tmp_path / 'model').items():
        np.testing.assert_array_equal(read_folder(tmp_path / 'exported')[name], array)
