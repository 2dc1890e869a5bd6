"""Exact compaction: layers without the neurons that make no difference."""

from __future__ import annotations

from gbdnn.compaction.chain import Compaction, LayerCompaction, compacted, twins_merged

__all__ = ["Compaction", "LayerCompaction", "compacted", "twins_merged"]
