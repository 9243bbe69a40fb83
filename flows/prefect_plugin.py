"""`prefect deployment run build-coco`: what stock Prefect wants spelled FLOW/DEPLOYMENT, by its own name alone.

Prefect calls `setup_environment` of every entry point in the group `prefect.plugins` when it is imported, before its
command line is read (plugins are on in this folder: `[tool.prefect.plugins]` in pyproject.toml). In the `prefect`
command, and nowhere else, this does two things:
- without a Prefect address in the settings it takes that of `uio2 up` in this folder's store;
- a bare NAME in `prefect deployment run NAME` becomes FLOW/NAME where one deployment has that name.

With a Prefect that it has not been tried with, and where Prefect takes bare names itself, it leaves everything as is.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from prefect.plugins import HookContext, SetupResult, register_hook

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"
TRIED_WITH = SpecifierSet(">=3.8,<3.9")
COMMAND = ("deployment", "deployments")
TIMEOUT_S = 10.0
# Options of `prefect` itself that take a value and may stand before the command.
GLOBAL_OPTIONS = ("--profile", "-p")


def address_of_store() -> str:
    """The API address that `uio2 up` noted in the store of this folder; empty without one."""
    home = Path(os.environ.get("UIO2_HOME") or ".uio2")
    try:
        return f"http://127.0.0.1:{int(json.loads((home / 'services' / 'prefect.json').read_text())['port'])}/api"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def bare_name(argv: list[str]) -> int | None:
    """Where in `argv` the bare NAME of `deployment run NAME` stands; None if there is none."""
    words = [
        i for i, word in enumerate(argv) if i > 0 and not word.startswith("-") and argv[i - 1] not in GLOBAL_OPTIONS
    ]
    if len(words) < 3 or argv[words[0]] not in COMMAND or argv[words[1]] != "run" or words[2] != words[1] + 1:
        return None
    return None if "/" in argv[words[2]] else words[2]


def full_name(name: str, *, api: str) -> str:
    """FLOW/NAME of the one deployment of that name.

    Raises:
      LookupError: there is none or there are several; the text says what to type.
    """
    deployments = _post(api, "/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
    if not deployments:
        known = [d["name"] for d in _post(api, "/deployments/filter", {"limit": 200})]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(set(known))) or 'none'}"
        raise LookupError(f"no deployment {name!r} at {api}; {hint}")
    ids = [d["flow_id"] for d in deployments]
    flows = _post(api, "/flows/filter", {"flows": {"id": {"any_": ids}}})
    names = sorted(f"{flow['name']}/{name}" for flow in flows)
    if len(names) > 1:
        raise LookupError(f"{len(names)} deployments are called {name!r}; type one of: {', '.join(names)}")
    return names[0]


def _post(api: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(api + path, data=json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Prefect's start-up hook."""
    if Path(sys.argv[0]).name != "prefect" or ctx.prefect_version not in TRIED_WITH:
        return None
    api = ctx.api_url or address_of_store()
    place = bare_name(sys.argv)
    if api and place is not None:
        try:
            sys.argv[place] = full_name(sys.argv[place], api=api.rstrip("/"))
        except LookupError as error:
            print(f"uio2: {error}", file=sys.stderr)
            raise SystemExit(1) from error
        except (urllib.error.URLError, OSError, ValueError):
            return None  # no server: Prefect's own message says so
    return SetupResult(env={"PREFECT_API_URL": api}, note="address of `uio2 up`") if api and not ctx.api_url else None
