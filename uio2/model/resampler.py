"""The perceiver resampler: any number of patches in, a fixed number of latents out (spec: MODEL.md section 5;
Alayrac et al. 2022, arXiv:2204.14198). No positions: the patches carry theirs from the vision transformer.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from uio2.model.attention import Attention, CosineAttention
from uio2.model.layers import MLP, RMSNorm
from uio2.model.parts import ResamplerConfig

# Fan-in of a table [latents, width] whose latents are its outputs.
latent_normal = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=0)


def _attention(config: ResamplerConfig, kind: str, rngs: nnx.Rngs) -> Attention | CosineAttention:
    width, heads, head_dim = config.emb_dim, config.num_heads, config.head_dim
    if kind == "scaled_cosine":
        return CosineAttention(width, heads=heads, head_dim=head_dim, rngs=rngs)
    return Attention(width, heads=heads, head_dim=head_dim, qk_norm=kind == "qk_norm", rngs=rngs)


class ResamplerLayer(nnx.Module):
    """x + attention(norm(x), patches or norm(x)); x + mlp(norm(x))."""

    def __init__(self, config: ResamplerConfig, *, cross: bool, rngs: nnx.Rngs):
        kind = config.cross_attention if cross else config.self_attention
        self.attention_norm = RMSNorm(config.emb_dim)
        self.attention = _attention(config, kind, rngs)
        self.mlp_norm = RMSNorm(config.emb_dim)
        self.mlp = MLP(config.emb_dim, config.mlp_dim, tanh_gelu=config.gelu == "tanh", rngs=rngs)
        self.cross = cross

    def __call__(
        self, x: Float[Array, "b l d"], context: Float[Array, "b n d"], *, mask: Bool[Array, "b n"]
    ) -> Float[Array, "b l d"]:
        y = self.attention_norm(x)
        source, seen = (context, mask) if self.cross else (y, jnp.ones(y.shape[:2], bool))
        pair = jnp.broadcast_to(seen[:, None, :], (x.shape[0], x.shape[1], seen.shape[1]))
        x = x + self.attention(y, source, mask=pair)
        return x + self.mlp(self.mlp_norm(x))


class Resampler(nnx.Module):
    """Patches [b, n, d] -> latents [b, l, d]. Two unlike layers are not worth a scan: they are a plain list."""

    def __init__(self, config: ResamplerConfig, *, rngs: nnx.Rngs):
        self.latents = nnx.Param(latent_normal(rngs.params(), (config.num_latents, config.emb_dim)))
        self.context_norm = RMSNorm(config.emb_dim)
        self.layers = nnx.List(
            [ResamplerLayer(config, cross=i in config.cross_layers, rngs=rngs) for i in range(config.num_layers)]
        )
        self.norm = RMSNorm(config.emb_dim)

    def __call__(self, patches: Float[Array, "b n d"], *, mask: Bool[Array, "b n"]) -> Float[Array, "b l d"]:
        context = self.context_norm(patches)
        latents = self.latents[...].astype(patches.dtype)
        x = jnp.broadcast_to(latents, (patches.shape[0], *latents.shape))
        for layer in self.layers:
            x = layer(x, context, mask=mask)
        return self.norm(x)
