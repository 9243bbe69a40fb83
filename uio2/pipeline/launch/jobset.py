"""The JobSet (jobset.x-k8s.io/v1alpha2) of a training: one replicated job, a replica per TPU slice, a pod per host.

Pod hostnames are `<jobset>-<replicated job>-<slice>-<host>` under a service of the JobSet's name, which gives the
coordinator its address before any pod runs. A pod that fails fails its job, and the JobSet starts all anew: the
training goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from uio2.pipeline.launch.launcher import COORDINATOR, NUM_PROCESSES, PROCESS_ID
from uio2.pipeline.launch.topology import Slice
from uio2.pipeline.stage import UsageError

API_VERSION = "jobset.x-k8s.io/v1alpha2"
REPLICATED_JOB = "slice"
CONTAINER = "train"
PORT = 8476
WORK_LABEL = "uio2.work"  # of all JobSets that share scratch, which only one may use at a time
NAME_LABEL = "jobset.sigs.k8s.io/jobset-name"
INDEX_LABEL = "jobset.sigs.k8s.io/job-index"
HOST_LABEL = "batch.kubernetes.io/job-completion-index"
# The controller appends `-slice-<n>-<n>-<5 letters>` to name a pod, and 63 characters are the limit.
LONGEST_NAME = 40
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class JobSetSettings:
    """What a cluster must be told that a recipe does not say.

    Attributes:
      slice: TPU type and topology.
      slices: how many of them train as one; between them the network of the data centre is used.
      image: container image with this project installed; its `python` is run.
      claim: persistent volume claim that holds the store, for all pods to read and write.
      mount: where it is mounted: the store's own path, so that paths mean the same in pods as here.
      namespace, service_account: of the pods; "" for the namespace's default account.
      spot: ask for nodes that may be taken away at any time.
      restarts: how often the whole is started anew after a failure.
      environment: further variables, for example UIO2_PLAN.
      node_selector: further labels of nodes, for example a reservation.
    """

    slice: Slice
    image: str
    claim: str
    mount: str
    slices: int = 1
    namespace: str = "default"
    service_account: str = ""
    spot: bool = False
    restarts: int = 3
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise UsageError(f"--slices {self.slices}: expected 1 or more")
        for option, value in (("image", self.image), ("claim", self.claim)):
            if not value:
                raise UsageError(f"--launcher k8s needs --{option}")

    @property
    def processes(self) -> int:
        """Pods, each with one process."""
        return self.slices * self.slice.hosts


def render(settings: JobSetSettings, *, name: str, jobs: str, work: str) -> dict[str, Any]:
    """The manifest.

    Args:
      settings: the cluster's side.
      name: of the JobSet, a DNS label of at most `LONGEST_NAME` characters.
      work: names the scratch that it uses: the start of the stage's fingerprint.
      jobs: folder with `process-<n>/job.json` as the pods see it.

    Raises:
      UsageError: the name cannot be one.
    """
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise UsageError(f"JobSet name {name!r}: expected at most {LONGEST_NAME} of a-z, 0-9 and -, a letter first")
    hosts = settings.slice.hosts
    metadata = {
        "name": name,
        "namespace": settings.namespace,
        "labels": {"app.kubernetes.io/name": "uio2", WORK_LABEL: work},
        # A node pool is a slice: each replica gets one to itself.
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
    }
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"spec": _pod(settings, name=name, jobs=jobs)},
    }
    replicated = {"name": REPLICATED_JOB, "replicas": settings.slices, "template": {"spec": job}}
    return {
        "apiVersion": API_VERSION,
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": settings.restarts},
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [replicated],
        },
    }


def _pod(settings: JobSetSettings, *, name: str, jobs: str) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": settings.slice.accelerator,
        "cloud.google.com/gke-tpu-topology": settings.slice.topology,
        **({"cloud.google.com/gke-spot": "true"} if settings.spot else {}),
        **settings.node_selector,
    }
    chips = str(min(settings.slice.chips, settings.slice.chips // settings.slice.hosts))
    command = (
        f"export {PROCESS_ID}=$((SLICE * {settings.slice.hosts} + JOB_COMPLETION_INDEX)) && "
        f'exec python -m uio2.cli.child "{jobs}/process-${PROCESS_ID}/job.json"'
    )
    container = {
        "name": CONTAINER,
        "image": settings.image,
        "command": ["bash", "-c", command],
        "env": _environment(settings, name=name),
        "ports": [{"containerPort": PORT}],
        "resources": {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}},
        "volumeMounts": [{"name": "store", "mountPath": settings.mount}],
    }
    toleration = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    return {
        "restartPolicy": "Never",
        **({"serviceAccountName": settings.service_account} if settings.service_account else {}),
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        # On SIGTERM a training saves and ends; the usual 30 s are short for a large one.
        "terminationGracePeriodSeconds": 300,
        "nodeSelector": selector,
        **({"tolerations": [toleration]} if settings.spot else {}),
        "containers": [container],
        "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": settings.claim}}],
    }


def _environment(settings: JobSetSettings, *, name: str) -> list[dict[str, Any]]:
    slice_index = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX_LABEL}']"}}
    together = {
        COORDINATOR: f"{name}-{REPLICATED_JOB}-0-0.{name}:{PORT}",
        NUM_PROCESSES: str(settings.processes),
    }
    values = {
        **(together if settings.processes > 1 else {}),
        "UIO2_EVENTS_FD": "1",  # progress goes out with the log, which is followed
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "JAX_COMPILATION_CACHE_DIR": f"{settings.mount}/cache/jax",
        **settings.environment,
    }
    return [{"name": "SLICE", "valueFrom": slice_index}, *({"name": k, "value": v} for k, v in values.items())]
