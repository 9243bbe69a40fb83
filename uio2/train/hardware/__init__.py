"""Whether a training fits hardware that is not here, and what it would take: `uio2 plan-hardware`."""
