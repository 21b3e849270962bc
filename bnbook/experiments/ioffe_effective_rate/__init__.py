"""The effective learning rate: Ioffe & Szegedy 2015, section 3.3; van Laarhoven 2017."""
