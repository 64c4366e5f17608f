"""Public test tools: phantoms, conformance suites, scripted servers."""
