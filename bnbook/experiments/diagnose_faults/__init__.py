"""`bnbook.diagnose` held against planted faults: experiment, claims and figures."""
