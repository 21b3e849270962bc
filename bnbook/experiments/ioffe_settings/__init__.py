"""Which rate and initial weights give the curves of Ioffe & Szegedy's figure 1."""
