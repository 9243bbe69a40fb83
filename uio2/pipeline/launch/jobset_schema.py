"""The fields of a JobSet that we use, as JSON Schema: names, types and limits of jobset.x-k8s.io/v1alpha2, batch/v1 and
core/v1. Unknown fields are refused, as a cluster refuses them under strict validation: a misspelt one is otherwise
dropped without a word.
"""

from __future__ import annotations

from typing import Any

from uio2.pipeline.stage import StageError

LABEL = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?[A-Za-z]*$"}}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def _list(items: dict[str, Any], *, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


_VARIABLE = _object(
    ("name",),
    name={"type": "string", "pattern": "^[-._a-zA-Z][-._a-zA-Z0-9]*$"},
    value={"type": "string"},
    valueFrom=_object(("fieldRef",), fieldRef=_object(("fieldPath",), fieldPath={"type": "string"})),
)
_CONTAINER = _object(
    ("name", "image"),
    name=LABEL,
    image={"type": "string", "minLength": 1},
    command=_list({"type": "string"}),
    env=_list(_VARIABLE),
    ports=_list(_object(("containerPort",), containerPort={"type": "integer", "minimum": 1, "maximum": 65535})),
    resources=_object((), requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=_list(_object(("name", "mountPath"), name=LABEL, mountPath={"type": "string", "pattern": "^[^:]+$"})),
)
_TOLERATION = _object(
    (),
    key={"type": "string"},
    operator={"enum": ["Equal", "Exists"]},
    value={"type": "string"},
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
)
_POD = _object(
    ("containers", "restartPolicy"),
    restartPolicy={"enum": ["Never", "OnFailure"]},
    serviceAccountName=LABEL,
    hostNetwork={"type": "boolean"},
    dnsPolicy={"enum": ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]},
    terminationGracePeriodSeconds=COUNT,
    nodeSelector=TEXTS,
    tolerations=_list(_TOLERATION),
    containers=_list(_CONTAINER, least=1),
    volumes=_list(_object(
        ("name", "persistentVolumeClaim"), name=LABEL,
        persistentVolumeClaim=_object(("claimName",), claimName={"type": "string", "minLength": 1}),
    )),
)  # fmt: skip
_JOB = _object(
    ("template",),
    parallelism=COUNT,
    completions=COUNT,
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    backoffLimit=COUNT,
    template=_object(("spec",), spec=_POD),
)
JOBSET = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=_object(("name",), name=LABEL, namespace=LABEL, labels=TEXTS, annotations=TEXTS),
    spec=_object(
        ("replicatedJobs",),
        failurePolicy=_object((), maxRestarts=COUNT),
        network=_object((), enableDNSHostnames={"type": "boolean"}, subdomain=LABEL,
                        publishNotReadyAddresses={"type": "boolean"}),
        ttlSecondsAfterFinished=COUNT,
        replicatedJobs=_list(
            _object(("name", "template"), name=LABEL, replicas=COUNT, template=_object(("spec",), spec=_JOB)), least=1
        ),
    ),
)  # fmt: skip


def check(manifest: Any) -> None:
    """Raises StageError naming the first field that a cluster would refuse."""
    import jsonschema

    error = next(iter(sorted(jsonschema.Draft202012Validator(JOBSET).iter_errors(manifest), key=str)), None)
    if error is not None:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        raise StageError(f"JobSet{place}: {error.message}")
