"""What the benchmarks share: sides in processes of their own, taking turns; workloads; medians and their spread."""
