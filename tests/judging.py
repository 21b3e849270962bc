"""A claim's criterion alone, for tables made up to turn it and too small for its premises."""

from dataclasses import replace

from bnbook.evidence import claims


def criterion(claim, table):
    """Judge a claim as though it had no premises."""
    return claims.judge(replace(claim, premises=()), table)
