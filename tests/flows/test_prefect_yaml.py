"""Every deployment of prefect.yaml resolves, takes the parameters it names, and fires when its schedule says."""

from __future__ import annotations

import datetime
import inspect

import pytest
import yaml

from flows import register

DEPLOYMENTS = yaml.safe_load(register.FILE.read_text(encoding="utf-8"))["deployments"]
NOW = datetime.datetime(2027, 3, 3, 12, tzinfo=datetime.UTC)  # a Wednesday


@pytest.fixture(scope="module")
def flows_by_name() -> dict:
    from prefect.flows import load_flow_from_entrypoint

    root = register.FILE.parent
    return {item["name"]: load_flow_from_entrypoint(f"{root}/{item['entrypoint']}") for item in DEPLOYMENTS}


@pytest.mark.parametrize("item", DEPLOYMENTS, ids=lambda item: item["name"])
def test_entrypoint_and_parameters(item: dict, flows_by_name: dict) -> None:
    flow = flows_by_name[item["name"]]
    given = item.get("parameters", {})
    needed = [p for p in inspect.signature(flow.fn).parameters.values() if p.default is p.empty]
    assert set(given) <= set(inspect.signature(flow.fn).parameters)
    flow.validate_parameters({**{p.name: "somewhere" for p in needed}, **given})
    if item.get("schedules"):
        assert not [p.name for p in needed if p.name not in given], "a scheduled run has nobody to ask"


async def _next(cron: str, timezone: str) -> datetime.datetime:
    from prefect.server.schemas.schedules import CronSchedule

    return (await CronSchedule(cron=cron, timezone=timezone).get_dates(1, start=NOW))[0]


def test_schedules_fire_when_they_should() -> None:
    import anyio

    found = {
        f"{item['name']}/{schedule['slug']}": anyio.run(_next, schedule["cron"], schedule["timezone"])
        for item in DEPLOYMENTS
        for schedule in item.get("schedules", [])
    }
    assert found["refexp-nightly/nightly"] == datetime.datetime(2027, 3, 4, 2, 30, tzinfo=datetime.UTC)
    assert found["digits/weekly"] == datetime.datetime(2027, 3, 7, 4, tzinfo=datetime.UTC)
