"""Model FLOPs: the operations of the matrix products and convolutions of a function, counted without running it.

A multiplication and an addition are two operations. The function is traced to a jaxpr, whose products are added up by
their shapes, those of a scan as often as it runs (XLA's own `cost_analysis` counts a loop's body once). So what is
counted is what the code computes, whichever modalities are there: masked places too, because they are computed; norms,
softmax, element-wise work and look-ups not, they are overhead against the matrix rate. Trace a gradient with `remat`
`none` and no microbatches: what is computed twice is the machine's work and not the model's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """Operations of `function(*arguments)`.

    Args:
      function: traceable by `jax.make_jaxpr`.
      arguments: arrays, or their shapes.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [_of_jaxpr(jaxpr) for value in equation.params.values() for jaxpr in _jaxprs(value)]
    if name == "cond":  # one branch runs
        return max(inner, default=0)
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _jaxprs(value: Any) -> Iterator[Any]:
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _jaxprs(item)


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    """Every tap of the kernel at every place, those on padding included, on zeros between strided values not."""
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    taps = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    found = 2 * math.prod(equation.outvars[0].aval.shape) * taps
    return found // math.prod(equation.params["lhs_dilation"])
