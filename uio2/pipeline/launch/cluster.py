"""The few calls of the Kubernetes API that a launcher needs, over plain HTTP requests.

Where the API is: UIO2_KUBE_API; else, inside a pod, the cluster's own with the pod's service account; else
http://127.0.0.1:8001, which `kubectl proxy` serves with the rights of whoever started it. So no credential passes
through here but a pod's own.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uio2.pipeline.stage import StageError

API_VARIABLE = "UIO2_KUBE_API"
PROXY = "http://127.0.0.1:8001"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 30.0
JOBSETS = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets"
PODS = "/api/v1/namespaces/{namespace}/pods"


class ClusterError(StageError):
    """The cluster refused, or cannot be reached; `status` is 0 for the latter, so that trying again makes sense."""

    def __init__(self, text: str, *, status: int = 0):
        super().__init__(text)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One API server, seen from one namespace."""

    url: str
    namespace: str
    account: Path | None = None

    @classmethod
    def from_environment(cls, *, namespace: str) -> Cluster:
        """The cluster that the environment means."""
        if url := os.environ.get(API_VARIABLE):
            return cls(url.rstrip("/"), namespace)
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        if host and (ACCOUNT / "token").is_file():
            port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            return cls(f"https://{host}:{port}", namespace, ACCOUNT)
        return cls(PROXY, namespace)

    def create(self, manifest: Mapping[str, Any]) -> None:
        """Creates a JobSet; fields that the cluster does not know are an error."""
        self._call("POST", f"{self._jobsets()}?fieldValidation=Strict", body=manifest)

    def status(self, name: str) -> dict[str, Any]:
        """The status of a JobSet."""
        return self._call("GET", f"{self._jobsets()}/{name}").get("status", {})

    def named(self, labels: Mapping[str, str]) -> list[str]:
        """Names of the JobSets that have these labels."""
        answer = self._call("GET", f"{self._jobsets()}?labelSelector={_selector(labels)}")
        return [item["metadata"]["name"] for item in answer.get("items", [])]

    def delete(self, name: str) -> None:
        """Deletes a JobSet with its pods; one that is gone is no error."""
        try:
            self._call("DELETE", f"{self._jobsets()}/{name}", body={"propagationPolicy": "Foreground"})
        except ClusterError as error:
            if error.status != 404:
                raise

    def pods(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """The pods that have these labels."""
        return self._call("GET", f"{self._pods()}?labelSelector={_selector(labels)}").get("items", [])

    def follow(self, pod: str, *, container: str) -> Iterator[str]:
        """The lines of a pod's log as they come, to its end."""
        with self._open("GET", f"{self._pods()}/{pod}/log?container={container}&follow=true", timeout=None) as answer:
            for line in answer:
                yield line.decode(errors="replace").rstrip("\n")

    def _jobsets(self) -> str:
        return JOBSETS.format(namespace=self.namespace)

    def _pods(self) -> str:
        return PODS.format(namespace=self.namespace)

    def _call(self, method: str, path: str, *, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        with self._open(method, path, body=body, timeout=TIMEOUT_S) as answer:
            return json.loads(answer.read() or b"{}")

    def _open(self, method: str, path: str, *, body: Any = None, timeout: float | None) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        context = None
        if self.account is not None:  # read every time: the kubelet renews it
            request.add_header("Authorization", f"Bearer {(self.account / 'token').read_text().strip()}")
            context = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        try:
            return urllib.request.urlopen(request, timeout=timeout, context=context)
        except urllib.error.HTTPError as error:
            raise ClusterError(f"{method} {path}: {_reason(error)}", status=error.code) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ClusterError(
                f"the Kubernetes API at {self.url} cannot be reached ({reason}): run `kubectl proxy`, or "
                f"set {API_VARIABLE}"
            ) from error


def _selector(labels: Mapping[str, str]) -> str:
    return urllib.parse.quote(",".join(f"{key}={value}" for key, value in labels.items()))


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return json.loads(error.read())["message"]
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
