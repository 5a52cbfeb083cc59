"""What `launch/gke/render.py` prints is valid: the JobSet by its schema, the Jobs in it by those of Kubernetes."""

import copy
import subprocess
import sys

import jsonschema
import pytest
import yaml

from tests.launch.jobset_schema import JOBSET
from tests.pipeline.conftest import ROOT

KUBERNETES = '1.33'
COMMON = {'NAME': 'demo', 'IMAGE': 'registry.example/ccl_jax:1', 'CLAIM': 'runs', 'RESTARTS': '20'}
VARIABLES = {
    'tpu': COMMON
    | {'ACCELERATOR': 'tpu-v5-lite-podslice', 'TOPOLOGY': '4x4', 'SLICES': '2', 'HOSTS': '4', 'CHIPS': '4'},
    'gpu': COMMON | {'ACCELERATOR': 'nvidia-h100-80gb', 'NODES': '2', 'GPUS': '8'},
}
ARGUMENTS = ['--config', 'configs/demo.py', '--workdir', '/runs/it\'s: "a" #run', '--config.tasks.names=$(HOME)']


def render(variant, variables, arguments=ARGUMENTS):
    words = [f'{name}={value}' for name, value in variables.items()]
    command = [sys.executable, str(ROOT / 'launch' / 'gke' / 'render.py'), variant, *words, '--', *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(variant, **changes):
    done = render(variant, VARIABLES[variant] | changes)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def check(jobset):
    kubernetes_validate = pytest.importorskip(
        'kubernetes_validate', reason='kubernetes-validate is not installed: the test extra has it for Python 3.11'
    )
    jsonschema.Draft202012Validator(JOBSET).validate(jobset)
    for job in jobset['spec']['replicatedJobs']:
        template = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': job['name']}} | job['template']
        kubernetes_validate.validate(template, KUBERNETES, strict=True)


def pod(jobset):
    return jobset['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']


@pytest.mark.parametrize('variant', VARIABLES)
def test_the_jobset_is_valid_and_ends_in_the_training_line(variant):
    jobset = rendered(variant)
    check(jobset)
    (container,) = pod(jobset)['containers']
    # Kubernetes writes $$ for a dollar.
    assert [word.replace('$$', '$') for word in container['command']] == ['ccl-jax', 'train', *ARGUMENTS]
    assert jobset['metadata']['name'] == 'demo'
    assert jobset['spec']['failurePolicy']['maxRestarts'] == 20


def test_slices_of_tpus():
    jobset = rendered('tpu')
    (job,) = jobset['spec']['replicatedJobs']
    slices, hosts = job['replicas'], job['template']['spec']['parallelism']
    assert (slices, hosts, job['template']['spec']['completions']) == (2, 4, 4)
    assert pod(jobset)['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
        'cloud.google.com/gke-tpu-topology': '4x4',
    }
    assert pod(jobset)['containers'][0]['resources']['limits'] == {'google.com/tpu': 4}


def test_the_processes_of_gpu_nodes_are_told_their_places():
    jobset = rendered('gpu')
    (container,) = pod(jobset)['containers']
    environment = {entry['name']: entry for entry in container['env']}
    assert environment['JAX_NUM_PROCESSES']['value'] == '2'
    assert environment['JAX_COORDINATOR_ADDRESS']['value'] == '$(COORDINATOR):8476'
    # Kubernetes replaces $(NAME) by what stands before.
    names = list(environment)
    assert names.index('COORDINATOR') < names.index('JAX_COORDINATOR_ADDRESS')
    (job,) = jobset['spec']['replicatedJobs']
    assert jobset['spec']['coordinator']['replicatedJob'] == job['name']
    assert job['template']['spec']['parallelism'] == 2
    assert container['resources']['limits'] == {'nvidia.com/gpu': 8}


@pytest.mark.parametrize('variant', VARIABLES)
def test_a_misspelt_field_is_refused_wherever_it_is(variant):
    """Each key that is the schema's own, not a name of the user's, with one letter more."""
    jobset = rendered(variant)
    free = ('annotations', 'nodeSelector', 'limits')
    paths = [path for path in key_paths(jobset) if not (len(path) > 1 and path[-2] in free)]
    assert len(paths) > 50
    for path in paths:
        broken = copy.deepcopy(jobset)
        inside = broken
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1] + 'x'] = inside.pop(path[-1])
        with pytest.raises(jsonschema.ValidationError):
            check(broken)


def key_paths(tree, path=()):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*path, key)
            yield from key_paths(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from key_paths(value, (*path, index))


@pytest.mark.parametrize(('variant', 'name'), [(variant, name) for variant in VARIABLES for name in VARIABLES[variant]])
def test_a_missing_variable_is_named(variant, name):
    done = render(variant, {other: value for other, value in VARIABLES[variant].items() if other != name})
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == f'render.py: missing {name}; give each as VARIABLE=VALUE\n'


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'NODE': '2'}, 'unknown NODE;'),
        ({'NODES': 'two'}, 'NODES is "two"; it must be a whole number'),
        ({'NODES': '0'}, 'NODES is "0"'),
        ({'IMAGE': ''}, 'IMAGE is empty'),
    ],
)
def test_a_wrong_variable_is_named(changes, says):
    done = render('gpu', VARIABLES['gpu'] | changes)
    assert (done.returncode, done.stdout) == (2, '')
    assert says in done.stderr


def test_a_wrong_call_ends_with_a_sentence():
    assert 'name the variant first: tpu or gpu' in render('cpu', {}).stderr
    assert 'no arguments; give those of ccl-jax train' in render('gpu', VARIABLES['gpu'], []).stderr
