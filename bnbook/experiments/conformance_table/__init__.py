"""The conformance checks on themselves: what they find in mutants, and in layers that are right."""
