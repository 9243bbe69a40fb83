"""The lineage of a model or artifact as one HTML page that loads nothing: a graph in inline SVG and a table.

Columns are distances from the start: whatever a stage read stands to its right, as far as its longest way. Geometry is
made here, words pass the template's escaping.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from uio2.pipeline.artifact import SOURCE
from uio2.pipeline.lineage import OK, Node
from uio2.pipeline.pages import page_templates
from uio2.pipeline.stage import flatten
from uio2.pipeline.store import Store

WIDTH, HEIGHT = 190, 74
GAP_X, GAP_Y = 56, 18
FIGURES = 3
LETTERS = 26  # of a name that fit into a box


@dataclasses.dataclass(frozen=True)
class Box:
    """A node with its place in the graph, pixels.

    Attributes:
      node: as walked.
      x, y: its upper left corner.
      made: when, as text; "" for sources.
      figures: `name value`, the first few.
    """

    node: Node
    x: int
    y: int
    made: str
    figures: tuple[str, ...]

    @property
    def title(self) -> str:
        """Its name, cut to fit."""
        name = self.node.name
        return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


@dataclasses.dataclass(frozen=True)
class Edge:
    """From what was read to what read it: an SVG path, and the input's name."""

    path: str
    role: str


@dataclasses.dataclass(frozen=True)
class Graph:
    """Boxes and edges in a drawing of width x height pixels."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    width: int
    height: int


def graph_of(store: Store, nodes: Sequence[Node]) -> Graph:
    """Lays out what `lineage.walk` yielded."""
    first: dict[str, Node] = {}
    links: dict[tuple[str, str], str] = {}
    depths: dict[str, int] = {}
    way: list[str] = []
    for node in nodes:
        key = _key(node)
        first.setdefault(key, node)
        del way[node.depth :]
        if way:
            links.setdefault((key, way[-1]), node.role)
        way.append(key)
    for key in first:
        depths[key] = 0
    for _ in first:  # the longest way decides; a chain has no cycles
        for (above, below), _role in links.items():
            depths[above] = max(depths[above], depths[below] + 1)
    columns: dict[int, list[str]] = {}
    for key, depth in depths.items():
        columns.setdefault(depth, []).append(key)
    tallest = max(len(column) for column in columns.values())
    places: dict[str, tuple[int, int]] = {}
    for depth, column in columns.items():
        top = (tallest - len(column)) * (HEIGHT + GAP_Y) // 2
        places |= {key: (depth * (WIDTH + GAP_X), top + i * (HEIGHT + GAP_Y)) for i, key in enumerate(column)}
    boxes = tuple(_box(store, first[key], place=places[key]) for key in first)
    edges = tuple(Edge(_curve(places[above], places[below]), role) for (above, below), role in links.items())
    return Graph(boxes, edges, len(columns) * (WIDTH + GAP_X) - GAP_X, tallest * (HEIGHT + GAP_Y) - GAP_Y)


def page_of(store: Store, reference: str, nodes: Sequence[Node]) -> str:
    """The whole page."""
    environment = page_templates(__file__)
    graph = graph_of(store, nodes)
    wrong = [node for node in nodes if node.status != OK]
    return environment.get_template("lineage.html.jinja").render(
        reference=reference, graph=graph, wrong=wrong, source=SOURCE, width=WIDTH, height=HEIGHT
    )


def _key(node: Node) -> str:
    return node.fingerprint or f"{node.name} {node.digest}"


def _curve(above: tuple[int, int], below: tuple[int, int]) -> str:
    """From the left side of what was read to the right side of what read it."""
    x1, y1 = above[0], above[1] + HEIGHT // 2
    x2, y2 = below[0] + WIDTH, below[1] + HEIGHT // 2
    bend = GAP_X // 2
    return f"M{x1} {y1}C{x1 - bend} {y1} {x2 + bend} {y2} {x2} {y2}"


def _box(store: Store, node: Node, *, place: tuple[int, int]) -> Box:
    """The node at its place, with when it was made and its first figures."""
    found = store.newest(node.name, version=node.fingerprint) if node.fingerprint else None
    if found is None:
        return Box(node, *place, made="", figures=())
    record = found[0]
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(record["created"]))
    return Box(
        node,
        *place,
        made=made,
        figures=tuple(f"{name} {value}" for name, value in _figures(record.get("stats", {}))[:FIGURES]),
    )


def _figures(stats: dict[str, Any]) -> list[tuple[str, str]]:
    """Measured values first, then other numbers."""
    metrics = stats.get("metrics")
    if isinstance(metrics, dict) and metrics and all(isinstance(m, dict) and "value" in m for m in metrics.values()):
        return [(key, f"{metric['value']:.3f}") for key, metric in metrics.items()]
    flat = {k: v for k, v in flatten(stats).items() if k and isinstance(v, (int, float)) and not isinstance(v, bool)}
    return [(key, f"{value:,}" if isinstance(value, int) else f"{value:.4g}") for key, value in flat.items()]
