#!/usr/bin/env python3
"""Prints the JobSet of a run, for `kubectl apply -f -`:

    launch/gke/render.py tpu NAME=demo IMAGE=... [VARIABLE=VALUE ...] -- --config configs/demo.py --workdir /runs/demo
    launch/gke/render.py gpu NAME=demo IMAGE=... [VARIABLE=VALUE ...] -- --config configs/demo.py --workdir /runs/demo

What follows `--` are the arguments of `ccl-jax train`. The heads of jobset-tpu.yaml and jobset-gpu.yaml say what each
variable means. A variable that is missing, unknown or of another form is an error (exit code 2).
"""

import json
import re
import sys
from pathlib import Path

VARIANTS = ('tpu', 'gpu')
NUMBERS = ('SLICES', 'HOSTS', 'CHIPS', 'NODES', 'GPUS', 'RESTARTS')


def render(template: str, variables: dict[str, str], arguments: list[str]) -> str:
    """Returns the template with its ${VARIABLES} as JSON, which YAML contains, and with the arguments.

    Raises:
        ValueError: a variable is missing, unknown or of another form, or something with a $ is left over.
    """
    text = '\n'.join(line for line in template.splitlines() if not line.lstrip().startswith('#')) + '\n'
    wanted = set(re.findall(r'\$\{(\w+)\}', text)) - {'ARGUMENTS'}
    if missing := sorted(wanted - variables.keys()):
        raise ValueError(f'missing {", ".join(missing)}; give each as VARIABLE=VALUE')
    if unknown := sorted(variables.keys() - wanted):
        raise ValueError(f'unknown {", ".join(unknown)}; the variables are {", ".join(sorted(wanted))}')
    for name, value in variables.items():
        if name in NUMBERS and not re.fullmatch('[1-9][0-9]*', value):
            raise ValueError(f'{name} is "{value}"; it must be a whole number of at least 1')
        if not value:
            raise ValueError(f'{name} is empty')
    if not arguments:
        raise ValueError('no arguments; give those of ccl-jax train after --')
    values = {name: value if name in NUMBERS else json.dumps(value) for name, value in variables.items()}
    # Kubernetes would replace $(NAME); $$ keeps a dollar.
    values['ARGUMENTS'] = ', '.join(json.dumps(argument.replace('$', '$$')) for argument in arguments)
    parts = re.split(r'\$\{(\w+)\}', text)
    if any('${' in part for part in parts[::2]):
        raise ValueError('the template holds a ${ that begins no ${VARIABLE}')
    return ''.join(values[part] if index % 2 else part for index, part in enumerate(parts))


def main(words: list[str]) -> int:
    try:
        if not words or words[0] not in VARIANTS:
            raise ValueError(f'name the variant first: {" or ".join(VARIANTS)}')
        end = words.index('--') if '--' in words else len(words)
        variables = {}
        for word in words[1:end]:
            name, equals, value = word.partition('=')
            if not equals or name in variables:
                raise ValueError(f'"{word}" is no VARIABLE=VALUE, or is given twice; arguments of ccl-jax follow --')
            variables[name] = value
        template = (Path(__file__).parent / f'jobset-{words[0]}.yaml').read_text(encoding='utf-8')
        sys.stdout.write(render(template, variables, words[end + 1 :]))
    except ValueError as error:
        print(f'render.py: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
