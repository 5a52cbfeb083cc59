"""The fields of a JobSet, version v1alpha2, for a strict check: a field that is not here is refused.

Written down from the CustomResourceDefinition of the JobSet project (Apache-2.0), commit
08dfbdfd682714a9ab929633eca8dc95315187e7: config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml. Left out are
`volumeClaimPolicies` and `status`; a template is a Job of Kubernetes, which has a schema of its own.
"""

from typing import Any


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {'type': 'object', 'properties': properties, 'required': list(required), 'additionalProperties': False}


def _list(items: dict[str, Any], **limits: int) -> dict[str, Any]:
    return {'type': 'array', 'items': items, **limits}


_STRING, _BOOLEAN, _INTEGER = {'type': 'string'}, {'type': 'boolean'}, {'type': 'integer'}
_NATURAL = {'type': 'integer', 'minimum': 0}
_STRINGS = {'type': 'object', 'additionalProperties': _STRING}
# A DNS label (RFC 1035), which JobSet's webhook asks for.
_NAME = {'type': 'string', 'pattern': '^[a-z]([-a-z0-9]*[a-z0-9])?$', 'maxLength': 63}

_ACTIONS = [
    'FailJobSet',
    'RestartJobSet',
    'RestartJobSetAndIgnoreMaxRestarts',
    'RestartJob',
    'RestartJobAndIgnoreMaxRestarts',
]

_RULE = _object(
    ('action', 'name'),
    action={'enum': _ACTIONS},
    # Pattern and reasons are those of JobSet's webhook (pkg/webhooks/jobset_webhook.go).
    name={'type': 'string', 'pattern': '^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$'},
    onJobFailureReasons=_list(
        {
            'enum': [
                'BackoffLimitExceeded',
                'DeadlineExceeded',
                'FailedIndexes',
                'MaxFailedIndexesExceeded',
                'PodFailurePolicy',
            ]
        }
    ),
    onJobFailureMessagePatterns=_list(_STRING),
    targetReplicatedJobs=_list(_STRING),
)

_REPLICATED_JOB = _object(
    ('name', 'template'),
    name=_NAME,
    groupName=_STRING,
    replicas=_NATURAL,
    dependsOn=_list(_object(('name', 'status'), name=_STRING, status={'enum': ['Ready', 'Complete']}), maxItems=5),
    template=_object(('spec',), metadata=_object(labels=_STRINGS, annotations=_STRINGS), spec={'type': 'object'}),
)

JOBSET = _object(
    ('apiVersion', 'kind', 'metadata', 'spec'),
    apiVersion={'const': 'jobset.x-k8s.io/v1alpha2'},
    kind={'const': 'JobSet'},
    metadata=_object(('name',), name=_NAME, namespace=_STRING, labels=_STRINGS, annotations=_STRINGS),
    spec=_object(
        ('replicatedJobs',),
        coordinator=_object(('replicatedJob',), replicatedJob=_STRING, jobIndex=_INTEGER, podIndex=_INTEGER),
        failurePolicy=_object(
            maxRestarts=_INTEGER,
            restartStrategy={'enum': ['Recreate', 'BlockingRecreate', 'InPlaceRestart']},
            rules=_list(_RULE),
        ),
        managedBy=_STRING,
        network=_object(enableDNSHostnames=_BOOLEAN, publishNotReadyAddresses=_BOOLEAN, subdomain=_STRING),
        replicatedJobs=_list(_REPLICATED_JOB, minItems=1),
        startupPolicy=_object(('startupPolicyOrder',), startupPolicyOrder={'enum': ['AnyOrder', 'InOrder']}),
        successPolicy=_object(('operator',), operator={'enum': ['All', 'Any']}, targetReplicatedJobs=_list(_STRING)),
        suspend=_BOOLEAN,
        ttlSecondsAfterFinished=_NATURAL,
    ),
)
