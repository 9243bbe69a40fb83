"""Figures of a step -> does it fit, how long does a step take, what does the training cost.

Memory is the compiler's where it compiled; without it, parameters, optimizer and batch are exact and the rest is a
lower bound, so that only a "no" is certain. Time is model FLOPs at a utilisation that is stated, not measured, but
never less than what it takes to read and write parameters and optimizer once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from uio2.train.hardware.batch import tokens
from uio2.train.hardware.chips import GIB, PRICES_OF, Topology
from uio2.train.hardware.question import Answer, Question

FITS, TOO_LARGE, UNKNOWN = "fits", "does not fit", "not compiled"


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Everything that is reported.

    Attributes:
      question, answer: what was looked at, and what was found.
      mfu: share of the chips' bf16 peak that the model's operations are expected to reach.
      price: US dollars per chip-hour.
    """

    question: Question
    answer: Answer
    mfu: float
    price: float

    @property
    def topology(self) -> Topology:
        return Topology.parse(self.question.topology)

    @property
    def capacity(self) -> int:
        """Bytes of a device."""
        return int(self.topology.chip.memory * GIB)

    @property
    def needed(self) -> int:
        """Bytes of a device; where nothing was compiled, at least."""
        found = self.answer
        return self.state + found.batch_bytes if found.compiled is None else found.compiled["total"]

    @property
    def state(self) -> int:
        """Bytes of parameters, optimizer and the like on a device."""
        return self.answer.parameter_bytes + self.answer.optimizer_bytes + self.answer.other_bytes

    @property
    def verdict(self) -> str:
        if self.needed > self.capacity:
            return TOO_LARGE
        return FITS if self.question.compiles else UNKNOWN

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        chip = self.topology.chip
        busy = self.answer.flops / (self.topology.devices * chip.flops * self.mfu)
        return max(busy, 2 * (self.answer.parameter_bytes + self.answer.optimizer_bytes) / chip.bandwidth)

    @property
    def chip_hours(self) -> float:
        """Of all steps."""
        return self.step_s * self.question.train.steps * self.topology.devices / 3600

    def split(self) -> dict[str, int]:
        """Bytes on a device by what they are for."""
        found = self.answer
        parts = {"parameters": found.parameter_bytes, "optimizer": found.optimizer_bytes,
                 "batch_and_counters": found.batch_bytes + found.other_bytes}  # fmt: skip
        if found.compiled is None:
            return parts | {"activations": found.activation_bytes}
        kept = min(found.activation_bytes, found.compiled["temporary"])
        return parts | {"activations": kept, "temporaries": found.compiled["temporary"] - kept}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        spec, register = self.question.train, self.question.register
        config = spec.model_config
        latents = {f"{m}_history": config[f"{m}_resampler"]["num_latents"] for m in ("image", "audio")}
        inputs, targets = tokens(register, rows=spec.batch_size, latents=latents)
        return {
            "topology": self.topology.text, "devices": self.topology.devices, "plan": self.question.plan,
            "mesh": dict(self.answer.mesh), "batch_size": spec.batch_size, "microbatches": spec.step.microbatches,
            "remat": config["remat"], "dtype": config["dtype"], "optimizer_rule": spec.optimizer.name,
            "parameters": self.answer.parameters, "trained_parameters": self.answer.trained,
            "gib_per_device": {name: _gib(size) for name, size in self.split().items()},
            "needed_gib": _gib(self.needed), "capacity_gib": _gib(self.capacity),
            "verdict": self.verdict,
            "missing_gib": _gib(max(self.needed - self.capacity, 0)),
            "tokens_per_step": {"encoder": inputs, "decoder": targets},
            "model_flops_per_step": self.answer.flops, "mfu_assumed": self.mfu, "step_s": _short(self.step_s),
            "steps": spec.steps, "chip_hours": _short(self.chip_hours), "price_per_chip_hour": self.price,
            "cost": _short(self.chip_hours * self.price), "compile_s": self.answer.compile_s,
        }  # fmt: skip

    def text(self) -> str:
        """For people."""
        found = self.to_json()
        mesh = ", ".join(f"{axis}={size}" for axis, size in self.answer.mesh.items()) or "one device"
        least = "" if self.question.compiles else "at least "
        sizes = [f"  {name.replace('_', ' '):<20}{size:>9.2f} GiB" for name, size in found["gib_per_device"].items()]
        verdict = self.verdict + (f" by {found['missing_gib']:.2f} GiB" if self.verdict == TOO_LARGE else "")
        enc, dec = found["tokens_per_step"].values()
        return "\n".join([
            f"{found['topology']}: {found['devices']} devices ({mesh}), plan {found['plan']}, batch "
            f"{found['batch_size']} in {found['microbatches']} part(s), remat {found['remat']}, {found['dtype']}, "
            f"{found['optimizer_rule']}",
            f"{found['parameters'] / 1e6:,.0f} M parameters, {found['trained_parameters'] / 1e6:,.0f} M of them are "
            "trained",
            "on each device:",
            *sizes,
            f"  {'in all':<20}{least}{found['needed_gib']:.2f} GiB of {found['capacity_gib']:.2f} GiB: {verdict}",
            f"a step: {found['model_flops_per_step'] / 1e12:,.1f} model TFLOP, {enc:,} encoder and {dec:,} decoder "
            f"tokens; {found['step_s']} s if {self.mfu:.0%} of the bf16 peak are reached",
            f"{found['steps']:,} steps: {found['chip_hours']:,} chip-hours, ${found['cost']:,} at ${self.price} per "
            f"chip-hour (prices are assumptions of {PRICES_OF}; --price)",
        ])  # fmt: skip


def _gib(size: int) -> float:
    return round(size / GIB, 3)


def _short(number: float) -> float:
    return float(f"{number:.3g}") if number < 1000 else float(round(number))
