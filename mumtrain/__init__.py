"""mumtrain: multi-view masked autoencoders, trained straight from mumdata's catalogs.

Importing the package loads no torch; the public functions are resolved when first asked for.
"""

from __future__ import annotations

from mumdata.public import resolve_lazily

# public name -> module that defines it
_PUBLIC = {
    "Config": "mumtrain.config",
    "recipe": "mumtrain.recipes",
    "pretrain": "mumtrain.train",
    "reconstruct": "mumtrain.reconstruct",
    "attention": "mumtrain.attention",
    "plan": "mumtrain.plan",
    "batch": "mumtrain.batch",
    "bench_data": "mumtrain.bench_data",
    "bench_model": "mumtrain.bench_model",
    "bench_train": "mumtrain.bench_train",
    "load_encoder": "mumtrain.weights",
    "load_model": "mumtrain.weights",
    "export": "mumtrain.weights",
    "features": "mumtrain.features",
    "gain": "mumtrain.gain",
    "replay": "mumtrain.replay",
    "dry_run": "mumtrain.dry_run",
    "slurm": "mumtrain.slurm",
    "card": "mumtrain.card",
    "demo": "mumtrain.demo",
    "build_model": "mumtrain.model.autoencoder",
    "load_checkpoint": "mumtrain.checkpoint",
}

__all__ = [*_PUBLIC]


resolve_lazily(__name__, _PUBLIC)
