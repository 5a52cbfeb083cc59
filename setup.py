"""Packaging of ccl_jax."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'ccl_jax' / '__init__.py').read_text()).group(1)

setup(
    name='ccl-jax',
    version=VERSION,
    description='Code-Centric Learning for clinical coding, in JAX',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11,<3.14',
    packages=find_packages(include=['ccl_jax', 'ccl_jax.*']),
    package_data={'ccl_jax.evaluation': ['page/*']},
    install_requires=[
        'absl-py>=2.1',
        'etils>=1.9',
        'flax>=0.12.6',
        # tensorflow-datasets imports it and does not declare it.
        'importlib_resources>=6.4',
        'grain>=0.2.12',
        # 0.11.0 is left out: no release of flax accepts it.
        'jax>=0.10,!=0.11.0',
        # transformers needs it for chat templates and does not declare it.
        'jinja2>=3.1',
        'jsonschema>=4.20',
        'matplotlib>=3.9',
        'ml-collections>=1.0',
        'numpy>=2.0',
        'optax>=0.2.6',
        'orbax-checkpoint>=0.12',
        'packaging>=24',
        'platformdirs>=4.2',
        'pyarrow>=17',
        'rapidfuzz>=3.9',
        'safetensors>=0.5',
        'scipy>=1.12',
        'simple-icd-10-cm>=1.5',
        'tensorboardX>=2.6.2',
        'tensorflow-datasets>=4.9.8',
        'tokenizers>=0.21',
        'tqdm>=4.66',
        'transformers>=4.56',
    ],
    extras_require={
        'test': [
            'hypothesis>=6.100',
            # Schemas of 100 MB, wanted once.
            'kubernetes-validate>=1.33; python_version < "3.12"',
            'mypy>=1.13',
            'openai>=1.60',
            'peft>=0.17; python_version < "3.12"',
            'pytest>=8',
            'pytest-xdist>=3.6',
            'PyYAML>=6.0',
            'ruff>=0.9',
            'scikit-learn>=1.5',
            'selenium>=4.20',
            # A build without CUDA exists for this version and Python alone.
            'torch==2.13.0; python_version < "3.12"',
        ],
        'gpu': ['jax[cuda13]'],
        'tpu': ['jax[tpu]'],
        'llm': ['openai>=1.60'],
        'baselines': ['scikit-learn>=1.5'],
    },
    entry_points={'console_scripts': ['ccl-jax=ccl_jax.cli:run']},
    classifiers=['Programming Language :: Python :: 3'],
)
