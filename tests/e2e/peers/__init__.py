"""Real peers for process-level tests: origins, edges and connectors as processes, clients."""
