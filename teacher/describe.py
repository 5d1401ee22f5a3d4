"""Describe: what a teacher's configuration amounts to, as text or JSON. Opens no weights."""

from pathlib import Path
from typing import Any

from teacher.config import PRESETS, TeacherConfig, preset
from teacher.sizes import CONVENTION, Sizes, count


def find_config(name: str) -> TeacherConfig:
    """A preset by its name, or the configuration of a folder; raises UserError for neither."""
    if "/" in name or (name not in PRESETS and Path(name).is_dir()):
        from teacher.loader import read_teacher_config

        return read_teacher_config(Path(name))
    return preset(name)


def as_json(name: str, config: TeacherConfig) -> dict[str, Any]:
    """Everything `as_text` says, as numbers."""
    sizes = count(config)
    mla = sizes.caches[0]
    return {
        "name": name,
        "model_type": config.model_type,
        "parameters": {
            "total": sizes.total,
            "active": sizes.active,
            "active_is": CONVENTION,
            "active_without_embedding": sizes.active - sizes.of("embedding").active,
            "active_without_embedding_and_head": _inner(sizes),
            "correction_bias_entries": sizes.bias_entries,
            "mtp": {"total": sizes.further.total, "active": sizes.further.active},
        },
        "components": {part.name: {"total": part.total, "active": part.active} for part in sizes.components},
        "cache": {
            "layers": sizes.layers,
            "values_per_token": sizes.cache_values_per_token,
            "per_token_per_layer": [
                {"kind": kind.kind, "values": kind.values, "bytes": kind.bytes, "mla_share": mla.values / kind.values}
                for kind in sizes.caches
            ],
        },
    }


def as_text(name: str, config: TeacherConfig) -> str:
    """Aligned lines: parameters, components, cache."""
    sizes = count(config)
    mla, total = sizes.caches[0], sizes.total
    lines = [f"{name} ({config.model_type}), {sizes.layers} layers, {config.n_routed_experts} routed experts", ""]
    numbers = [
        ("parameters", total, ""),
        ("active a token", sizes.active, "all but the routed experts it does not choose; embedding and head count"),
        ("  without embedding", sizes.active - sizes.of("embedding").active, ""),
        ("  nor head", _inner(sizes), ""),
        ("correction bias", sizes.bias_entries, "entries; buffers, not counted above"),
    ]
    lines += [f"{label:<22}{number:>19,}  {note}".rstrip() for label, number, note in numbers]
    lines += ["", f"{'component':<22}{'parameters':>19}{'active':>17}{'share':>8}"]
    lines += [
        f"{part.name:<22}{part.total:>19,}{part.active:>17,}{part.total / total:>8.2%}" for part in sizes.components
    ]
    mtp = sizes.further
    if mtp.total:
        lines += [f"{mtp.name:<22}{mtp.total:>19,}{mtp.active:>17,}  not in the totals; shares embedding and head"]
    lines += [""]
    width = max(len(kind.kind) for kind in sizes.caches)
    lines += [f"{'cache, a token in one layer':<{width}}{'values':>8}{'bytes':>9}  MLA is"]
    lines += [
        f"{kind.kind:<{width}}{kind.values:>8,}{kind.bytes:>9,}  {mla.values / kind.values:>7.2%}"
        for kind in sizes.caches
    ]
    lines += [
        f"over all {sizes.layers} layers, MLA keeps {sizes.cache_values_per_token:,} values a token (bytes: bfloat16)"
    ]
    return "\n".join(lines)


def _inner(sizes: Sizes) -> int:
    return sizes.active - sizes.of("embedding").active - sizes.of("head").active
