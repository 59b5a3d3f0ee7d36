"""What a run will need, from its config alone: memory, room on disk, operations, hours, cost, and a cluster that can hold it."""
