"""Fine-tuning a BN network: statistics that stand against statistics that move."""
