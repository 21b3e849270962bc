"""Names of the arms that experiments compare; figures give each its colour."""

WITHOUT, WITH = "without BN", "with BN"
